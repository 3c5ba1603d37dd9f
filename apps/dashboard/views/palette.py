"""What the command palette offers: pages are in its navigation, this adds what exists."""

from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.catalog import catalog
from apps.dashboard import words
from apps.deployments.models import Deployment
from apps.fleet.models import Host


@require_safe
def entries(_request: HttpRequest) -> JsonResponse:
    """Return `{"groups": [{"title", "items": [{"label", "note", "href", "icon"}]}]}`."""
    groups = [
        {"title": "Deployments", "items": _deployments()},
        {"title": "Hosts", "items": _hosts()},
        {"title": "Deploy", "items": _models()},
    ]
    return JsonResponse({"groups": groups})


def _deployments() -> list[dict[str, str]]:
    rows = Deployment.objects.order_by("name").values_list("name", "phase")
    return [
        _item(name, words.of_deployment(phase).word, reverse("deployment", args=[name]), "boxes")
        for name, phase in rows
    ]


def _hosts() -> list[dict[str, str]]:
    rows = Host.objects.order_by("name").values_list("name", "state")
    return [
        _item(name, words.of_host(state).word, f"{reverse('hosts')}#host-{name}", "server")
        for name, state in rows
    ]


def _models() -> list[dict[str, str]]:
    return [
        _item(e.name, e.maker, reverse("deploy-settings", args=[e.slug]), "rocket")
        for e in catalog.entries()
    ]


def _item(label: str, note: str, href: str, icon: str) -> dict[str, str]:
    return {"label": label, "note": note, "href": href, "icon": icon}
