"""Every address of the web process that Django serves.

The agents', gateways' and browsers' sockets are routed in `controlplane.asgi`, before Django.
"""

from django.urls import include, path, re_path

from apps.accounts.urls import api_patterns as accounts
from apps.catalog.urls import api_patterns as catalog
from apps.deployments.urls import api_patterns as deployments
from apps.fleet.urls import api_patterns as fleet
from apps.rag.urls import api_patterns as rag
from apps.rag.urls import openai_patterns
from apps.telemetry.prometheus import Metrics
from apps.traffic.urls import api_patterns as traffic
from controlplane.health import livez, readyz
from controlplane.openapi import SchemaView
from controlplane.reference import reference
from controlplane.unknown import unknown_address

urlpatterns = [
    re_path(r"^api/.*\x00", unknown_address),  # PostgreSQL takes no NUL in a name to look for
    path("api/v1/", include([*catalog, *deployments, *fleet, *traffic, *rag, *accounts])),
    path("api/schema", SchemaView.as_view(), name="api-schema"),
    path("api/docs", reference, name="api-docs"),
    re_path(r"^api(?:/.*)?$", unknown_address),
    *openai_patterns,
    path("livez", livez, name="livez"),
    path("readyz", readyz, name="readyz"),
    path("metrics", Metrics.as_view(), name="metrics"),
    path("", include("apps.dashboard.urls")),
]

handler500 = "controlplane.unknown.fault"
