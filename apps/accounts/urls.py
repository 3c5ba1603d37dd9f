"""Addresses of tokens, users and the audit log, relative to `/api/v1/`."""

from django.urls import URLPattern, path

from apps.accounts import api

api_patterns: list[URLPattern] = [
    path("audit/", api.AuditList.as_view(), name="audit-list"),
    path("audit/check/", api.AuditCheck.as_view(), name="audit-check"),
    path("tokens/", api.TokenList.as_view(), name="tokens-list"),
    path("tokens/<uuid:token_id>/", api.TokenDetail.as_view(), name="tokens-detail"),
    path("users/", api.UserList.as_view(), name="users-list"),
    path("users/<str:username>/", api.UserDetail.as_view(), name="users-detail"),
]
