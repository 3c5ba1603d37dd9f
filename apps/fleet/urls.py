"""Addresses of hosts, join tokens and prices, relative to `/api/v1/`."""

from django.urls import URLPattern, path

from apps.fleet import api

api_patterns: list[URLPattern] = [
    path("hosts/", api.HostList.as_view(), name="hosts-list"),
    path("hosts/<str:name>/", api.HostDetail.as_view(), name="hosts-detail"),
    path("hosts/<str:name>/drain/", api.HostDrain.as_view(), name="hosts-drain"),
    path("hosts/<str:name>/uncordon/", api.HostUncordon.as_view(), name="hosts-uncordon"),
    path("join-tokens/", api.JoinTokenList.as_view(), name="join-tokens-list"),
    path("join-tokens/<uuid:token_id>/", api.JoinTokenDetail.as_view(), name="join-tokens-detail"),
    path("default-prices/", api.DefaultPriceList.as_view(), name="default-prices-list"),
    path(
        "default-prices/<str:kind>/",
        api.DefaultPriceDetail.as_view(),
        name="default-prices-detail",
    ),
]
