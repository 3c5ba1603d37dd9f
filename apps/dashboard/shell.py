"""The frame around every page: navigation, counts, the signed-in person, what is live.

Called by the views through `page`. Costs two counts; a page that is not built does not appear.
"""

import json
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import patch_cache_control, patch_vary_headers

from apps.accounts.states import Role
from apps.dashboard import queries
from apps.dashboard.access import may, user_of


@dataclass(frozen=True, kw_only=True)
class Item:
    key: str
    href: str
    icon: str
    label: str
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class Shell:
    title: str
    page: str
    """Name of the page's template; scripts and styles hang on it."""
    current: str
    """Key of the navigation item that is lit."""
    live: str
    """Topic of the page's socket; empty for a page without live numbers."""
    sections: tuple[Section, ...]
    initials: str
    can_operate: bool
    can_admin: bool


_SECTIONS = (
    ("", (("overview", "layout-grid", "Overview"), ("deployments", "boxes", "Deployments"),
          ("catalog", "book-open", "Catalog"))),
    ("Try", (("playground", "message-square", "Playground"),
             ("knowledge", "library", "Knowledge"))),
    ("Capacity", (("hosts", "server", "Hosts"), ("pool", "moon", "Warm pool"),
                  ("activity", "activity", "Activity"))),
    ("Access", (("keys", "key-round", "API keys"), ("usage", "chart-no-axes-column", "Usage"))),
    ("System", (("settings", "settings", "Settings"), ("audit", "history", "Audit log"))),
)  # fmt: skip


_RENEWABLE = frozenset(
    {
        "activity",
        "audit",
        "catalog",
        "deploy",
        "deployment",
        "deployments",
        "hosts",
        "keys",
        "knowledge",
        "overview",
        "playground",
        "pool",
    }
)
"""Pages with a partial `live`, which script fetches alone; every tab of a deployment is one."""


def page(
    request: HttpRequest,
    name: str,
    context: dict[str, Any],
    *,
    title: str,
    live: str = "",
    status: int = 200,
) -> HttpResponse:
    """Return the page `dashboard/<name>.html` inside the frame, or its live part alone.

    `live` is the topic of its socket, e.g. `deployment:llama`. A request with the header
    `X-Part: live` is a page that renews itself: it gets the same partial that the page holds.
    """
    counts = queries.counts()
    whole = {**context, "shell": build(request, name, counts, title=title, live=live)}
    part = "#live" if _is_renewable(name) and request.headers.get("X-Part") == "live" else ""
    response = render(request, f"dashboard/{name}.html{part}", whole, status=status)
    if part:
        response["X-Counts"] = json.dumps(counts)
    patch_vary_headers(response, ["X-Part"])
    patch_cache_control(response, no_store=True)
    return response


def _is_renewable(name: str) -> bool:
    return name in _RENEWABLE or name.startswith(("deployment_", "knowledge_"))


_PARENTS = {"deployment": "deployments", "deploy": "catalog"}
"""Pages below one of the navigation."""


def _current(name: str) -> str:
    """Return the key of the navigation item under which the page `name` stands."""
    if name.startswith("deployment_"):
        return "deployments"
    return "knowledge" if name.startswith("knowledge_") else _PARENTS.get(name, name)


def build(
    request: HttpRequest, name: str, counts: dict[str, int], *, title: str, live: str
) -> Shell:
    """Return the frame of the page `name` for the signed-in person."""
    user = user_of(request)
    return Shell(
        title=title,
        page=name,
        current=_current(name),
        live=live,
        sections=tuple(_section(label, items, counts) for label, items in _SECTIONS),
        initials=user.username[:2].upper(),
        can_operate=may(user, Role.OPERATOR),
        can_admin=may(user, Role.ADMIN),
    )


def _section(
    title: str, items: tuple[tuple[str, str, str], ...], counts: dict[str, int]
) -> Section:
    return Section(
        title=title,
        items=tuple(
            Item(key=key, href=reverse(key), icon=icon, label=label, count=counts.get(key))
            for key, icon, label in items
        ),
    )
