"""Addresses of keys, usage, metrics and cost, relative to `/api/v1/`."""

from django.urls import URLPattern, path

from apps.traffic import api, api_what_if

api_patterns: list[URLPattern] = [
    path("api-keys/", api.KeyList.as_view(), name="api-keys-list"),
    path("api-keys/<uuid:key_id>/", api.KeyDetail.as_view(), name="api-keys-detail"),
    path("model-aliases/", api.AliasList.as_view(), name="model-aliases-list"),
    path("model-aliases/<path:name>/", api.AliasDetail.as_view(), name="model-aliases-detail"),
    path("usage/", api.UsageList.as_view(), name="usage-list"),
    path(
        "deployments/<str:name>/metrics/",
        api.DeploymentMetrics.as_view(),
        name="deployments-metrics",
    ),
    path(
        "deployments/<str:name>/what-if/",
        api_what_if.DeploymentWhatIf.as_view(),
        name="deployments-what-if",
    ),
    path("deployments/<str:name>/cost/", api.DeploymentCost.as_view(), name="deployments-cost"),
]
