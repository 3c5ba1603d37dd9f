"""Addresses of knowledge bases: REST, relative to `/api/v1/`, and OpenAI's, from the root."""

from django.urls import URLPattern, path

from apps.rag import api, api_aliases, api_ask, api_eval, views

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
    path(f"{_BASE}compare/", api_eval.Compare.as_view(), name="knowledge-bases-compare"),
    path(f"{_BASE}profiles/", api_eval.ProfileList.as_view(), name="profiles-list"),
    path(f"{_BASE}promote/", api_eval.Promote.as_view(), name="profiles-promote"),
    path(f"{_BASE}judgements/", api_eval.Judgements.as_view(), name="judgements"),
    path(f"{_BASE}thumbs/", api_eval.Thumbs.as_view(), name="thumbs"),
    path(f"{_BASE}evaluate/", api_eval.Evaluate.as_view(), name="knowledge-bases-evaluate"),
    path(f"{_BASE}evaluations/", api_eval.EvaluationList.as_view(), name="evaluations-list"),
    path(
        f"{_BASE}evaluations/<uuid:evaluation>/",
        api_eval.EvaluationDetail.as_view(),
        name="evaluations-detail",
    ),
    path(f"{_BASE}aliases/", api_aliases.AliasList.as_view(), name="knowledge-aliases-list"),
    path(
        f"{_BASE}aliases/<str:name>/",
        api_aliases.AliasDetail.as_view(),
        name="knowledge-aliases-detail",
    ),
    path(f"{_BASE}builds/", api.BuildList.as_view(), name="builds-list"),
    path(f"{_BASE}builds/<int:number>/", api.BuildDetail.as_view(), name="builds-detail"),
    path(f"{_BASE}builds/<int:number>/flip/", api.BuildFlip.as_view(), name="builds-flip"),
]

openai_patterns: list[URLPattern] = [
    path("rag/v1/chat/completions", views.chat_completions, name="knowledge-chat"),
]
