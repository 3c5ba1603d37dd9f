"""The traffic API alone, at its address."""

from django.urls import include, path

from apps.traffic.urls import api_patterns

urlpatterns = [path("api/v1/", include(api_patterns))]
