"""Every address of the REST API with every method, walked by everyone.

An address that is new must either need the default role (reading: viewer, writing: operator) or be
named in `OTHER`.
"""

from collections.abc import Iterator

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient

from apps.accounts.models import User
from apps.accounts.states import Role, allows
from tests.apps.accounts.people import make_client, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

METHODS = ("get", "post", "put", "patch", "delete")

OTHER = {
    "get audit/check/": Role.ADMIN,
    "post catalog/": Role.ADMIN,
    "post tokens/": Role.VIEWER,
    "delete tokens/<uuid:token_id>/": Role.VIEWER,
    # To ask is to read.
    **{
        f"post knowledge-bases/<str:base>/{what}/": Role.VIEWER
        for what in ("search", "ask", "compare", "thumbs")
    },
    "get users/": Role.ADMIN,
    "post users/": Role.ADMIN,
    "get users/<str:username>/": Role.ADMIN,
    "patch users/<str:username>/": Role.ADMIN,
    "patch hosts/<str:name>/": Role.ADMIN,
    "delete hosts/<str:name>/": Role.ADMIN,
    "post hosts/<str:name>/drain/": Role.ADMIN,
    "post hosts/<str:name>/uncordon/": Role.ADMIN,
    "post hosts/<str:name>/declare-lost/": Role.ADMIN,
    "get join-tokens/": Role.ADMIN,
    "post join-tokens/": Role.ADMIN,
    "delete join-tokens/<uuid:token_id>/": Role.ADMIN,
    "put default-prices/<str:kind>/": Role.ADMIN,
    "delete default-prices/<str:kind>/": Role.ADMIN,
}


def api_routes() -> Iterator[tuple[str, str]]:
    """Give (method, route) of everything under /api/v1/."""
    [api] = [p for p in get_resolver().url_patterns
             if isinstance(p, URLResolver) and str(p.pattern) == "api/v1/"]  # fmt: skip
    for pattern in api.url_patterns:
        assert isinstance(pattern, URLPattern)
        for method in METHODS:
            if hasattr(pattern.callback.view_class, method):
                yield method, str(pattern.pattern)


ROUTES = sorted({f"{method} {route}" for method, route in api_routes()})


def needed(route: str) -> Role:
    return OTHER.get(route, Role.VIEWER if route.startswith("get ") else Role.OPERATOR)


def address(route: str) -> str:
    path = route.partition(" ")[2]
    for hole, value in (("uuid:", "00000000-0000-4000-8000-000000000000"), ("int:", "1")):
        while f"<{hole}" in path:
            start = path.index(f"<{hole}")
            path = path[:start] + value + path[path.index(">", start) + 1 :]
    while "<" in path:
        path = path[: path.index("<")] + "nobody" + path[path.index(">") + 1 :]
    return f"/api/v1/{path}"


def call(client: APIClient, route: str) -> int:
    method = route.partition(" ")[0]
    answer = getattr(client, method)(address(route), format="json")
    if answer.status_code >= 400:
        assert answer["Content-Type"] == "application/problem+json"
        assert {"type", "title", "status", "code", "detail"} <= answer.json().keys()
    return answer.status_code


class TestRoutes:
    def test_every_exception_names_a_route_that_exists(self):
        assert set(OTHER) <= set(ROUTES)

    @pytest.mark.parametrize("route", ROUTES)
    def test_asks_a_stranger_to_sign_in(self, route):
        assert call(APIClient(), route) == 401

    @pytest.mark.parametrize("role", list(Role))
    @pytest.mark.parametrize("route", ROUTES)
    def test_lets_a_role_pass_exactly_where_it_may(self, route, role):
        status = call(make_client(role), route)

        assert (status == 403) is not allows(role, needed(route))
        assert status not in (401, 500)


class TestSuperuser:
    def test_counts_as_an_admin_whatever_the_role(self):
        root = make_user(username="root", role=Role.VIEWER, is_superuser=True)
        client = APIClient()
        client.force_authenticate(root)

        assert client.get("/api/v1/users/").status_code == 200


class TestRefusal:
    def test_names_the_role_that_is_needed(self):
        answer = make_client(Role.VIEWER).get("/api/v1/users/")

        assert answer.json()["detail"] == "This needs the role `admin`; you are `viewer`."
        assert User.objects.count() == 1
