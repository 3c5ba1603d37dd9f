"""Addresses of knowledge bases, relative to `/api/v1/`."""

from django.urls import URLPattern, path

from apps.rag import api, api_ask

_BASE = "knowledge-bases/<str:base>/"
_DOCUMENT = f"{_BASE}documents/<uuid:document>/"

api_patterns: list[URLPattern] = [
    path("vectors/", api.VectorsStatus.as_view(), name="vectors"),
    path("knowledge-bases/", api.KnowledgeBaseList.as_view(), name="knowledge-bases-list"),
    path(_BASE, api.KnowledgeBaseDetail.as_view(), name="knowledge-bases-detail"),
    path(f"{_BASE}documents/", api.DocumentList.as_view(), name="documents-list"),
    path(_DOCUMENT, api.DocumentDetail.as_view(), name="documents-detail"),
    path(f"{_DOCUMENT}retry/", api.DocumentRetry.as_view(), name="documents-retry"),
    path(f"{_DOCUMENT}text/", api.DocumentText.as_view(), name="documents-text"),
    path(f"{_DOCUMENT}pages/<int:page>/", api.DocumentPage.as_view(), name="documents-page"),
    path(f"{_BASE}chunks/<int:chunk>/", api.ChunkDetail.as_view(), name="chunks-detail"),
    path(f"{_BASE}search/", api_ask.Search.as_view(), name="knowledge-bases-search"),
    path(f"{_BASE}ask/", api_ask.Ask.as_view(), name="knowledge-bases-ask"),
    path(f"{_BASE}runs/<uuid:run>/", api_ask.RunDetail.as_view(), name="knowledge-bases-run"),
    path(f"{_BASE}builds/", api.BuildList.as_view(), name="builds-list"),
    path(f"{_BASE}builds/<int:number>/", api.BuildDetail.as_view(), name="builds-detail"),
    path(f"{_BASE}builds/<int:number>/flip/", api.BuildFlip.as_view(), name="builds-flip"),
]
