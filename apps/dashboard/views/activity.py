"""What happened, and who changed what: the feed of events and the audit log."""

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from apps.accounts import queries as account_queries
from apps.accounts.queries import AuditFilter
from apps.dashboard import shell
from apps.deployments import queries
from apps.deployments.models import Deployment
from apps.fleet.models import Host

PER_PAGE = 50
SEVERITIES = (("info", "Info"), ("warning", "Warnings"), ("error", "Errors"))
KINDS = (("deployment", "Deployments"), ("replica", "Replicas"), ("host", "Hosts"))


@require_safe
def events(request: HttpRequest) -> HttpResponse:
    """Show the events, newest first, filtered by kind, severity, deployment and host."""
    wanted = {
        name: request.GET.get(name, "")[:80] for name in ("kind", "severity", "deployment", "host")
    }
    pages = Paginator(queries.events(**wanted), PER_PAGE)
    context = {
        "page": pages.get_page(request.GET.get("page")),
        "wanted": wanted,
        "filtered": any(wanted.values()),
        "severities": SEVERITIES,
        "kinds": KINDS,
        "deployments": Deployment.objects.order_by("name").values_list("name", flat=True),
        "hosts": Host.objects.order_by("name").values_list("name", flat=True),
    }
    return shell.page(request, "activity", context, title="Activity", live="activity")


@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    """Show the audit log; `verify=1` walks its chain of hashes."""
    wanted = {
        name: request.GET.get(name, "").strip()[:150] for name in ("actor", "action", "target")
    }
    entries = account_queries.audit_entries(
        AuditFilter(actor=wanted["actor"], action=wanted["action"], target=wanted["target"])
    )
    pages = Paginator(entries, PER_PAGE)
    context = {
        "page": pages.get_page(request.GET.get("page")),
        "wanted": wanted,
        "filtered": any(wanted.values()),
        "check": account_queries.verify_chain() if request.GET.get("verify") else None,
    }
    return shell.page(request, "audit", context, title="Audit log")
