"""Addresses of the catalog, relative to `/api/v1/`."""

from django.urls import URLPattern, path

from apps.catalog import api, api_settings

api_patterns: list[URLPattern] = [
    path("catalog/", api.EntryList.as_view(), name="catalog-list"),
    path("catalog/<str:slug>/", api.EntryDetail.as_view(), name="catalog-detail"),
    path(
        "engine-settings/",
        api_settings.EngineSettingsSheet.as_view(),
        name="engine-settings",
    ),
    path("catalog-problems/", api.FileProblemList.as_view(), name="catalog-problems"),
]
