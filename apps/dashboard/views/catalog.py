"""The catalog: what can be served, where it fits now, and one click to deploy it."""

from http import HTTPStatus

from django.conf import settings as django_settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.accounts.states import Role
from apps.catalog import actions as catalog_actions
from apps.catalog import catalog
from apps.catalog.entry import Entry
from apps.dashboard import shelf, shell
from apps.dashboard.access import needs, user_of
from apps.dashboard.forms import DeployForm
from apps.deployments import actions
from apps.deployments.orders import NewDeployment
from apps.lib import clock
from apps.lib.problems import Problem

SIMULATOR = "simulator"


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the cards, filtered by `q`, `task` and `fits`."""
    whole = shelf.cards()
    wanted = shelf.Filter.of(request.GET)
    context = {
        "cards": [card for card in whole if wanted.takes(card)],
        "total": len(whole),
        "filter": wanted,
        "tasks": shelf.tasks(whole),
        "fitting": sum(card.fits for card in whole),
        "problems": catalog.problems(),
        "simulated": django_settings.ENGINE == SIMULATOR,
    }
    return shell.page(request, "catalog", context, title="Catalog")


@require_safe
def settings(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the form with which a deployment is ordered in detail."""
    entry = _entry(slug)
    form = DeployForm(entry, request.GET or None)
    return _form_page(request, entry, form)


@require_safe
def check(request: HttpRequest, slug: str) -> HttpResponse:
    """Return the fit of the form's wishes as a fragment; asked while a person types."""
    entry = _entry(slug)
    form = DeployForm(entry, request.GET)
    context = {"entry": entry, "form": form, **_preview(entry, form)}
    return shell.page(request, "deploy", context, title=entry.name)


@needs(Role.OPERATOR)
@require_http_methods(["GET", "HEAD", "POST"])
def deploy(request: HttpRequest, slug: str) -> HttpResponse:
    """Order the deployment and go to its page, where it starts; a refusal shows the form."""
    if request.method != "POST":
        return redirect("deploy-settings", slug=slug)
    entry = _entry(slug)
    form = DeployForm(entry, request.POST)
    if not form.is_valid():
        return _form_page(request, entry, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    try:
        made = _order(form.order(), user_of(request).username)
    except Problem as problem:
        form.refuse(problem)
        return _form_page(request, entry, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    messages.success(request, f"{made} was ordered.")
    return redirect("deployment", name=made)


@needs(Role.ADMIN)
@require_POST
def add(request: HttpRequest) -> HttpResponse:
    """Make a card for a model of the hub or of a folder, then show its form."""
    source = request.POST.get("source", "").strip()[:400]
    if source and ":" not in source:
        source = f"path:{source}" if source.startswith("/") else f"hf:{source}"
    try:
        made = catalog_actions.add_model(source=source, actor=user_of(request).username)
    except Problem as problem:
        messages.error(request, problem.detail)
        return redirect("catalog")
    messages.success(request, f"{made.name} is in the catalog.")
    return redirect("deploy-settings", slug=made.slug)


def _order(order: NewDeployment, actor: str) -> str:
    return actions.create(order, actor=actor, now=clock.now()).name


def _form_page(
    request: HttpRequest, entry: Entry, form: DeployForm, status: int = HTTPStatus.OK
) -> HttpResponse:
    context = {
        "entry": entry,
        "form": form,
        "simulated": django_settings.ENGINE == SIMULATOR,
        **_preview(entry, form),
    }
    return shell.page(request, "deploy", context, title=entry.name, status=status)


def _preview(entry: Entry, form: DeployForm) -> dict[str, object]:
    seen = shelf.preview(entry, form.wish())
    return {"fit": seen.plan, "hosts": seen.hosts}


def _entry(slug: str) -> Entry:
    try:
        return catalog.get(slug)
    except catalog.UnknownEntry as error:
        raise Http404(str(error)) from error
