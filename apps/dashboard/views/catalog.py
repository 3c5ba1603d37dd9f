"""The catalog: what can be served, where it fits now, and one click to deploy it."""

from dataclasses import dataclass
from http import HTTPStatus

from django.conf import settings as django_settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.accounts.states import Role
from apps.catalog import actions as catalog_actions
from apps.catalog import catalog
from apps.catalog.entry import Entry
from apps.dashboard import shelf, shell
from apps.dashboard.access import may, needs, user_of
from apps.dashboard.engine_form import EngineForm, beside
from apps.dashboard.forms import ENGINE_FIELDS, DeployForm
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
    forms = _Forms.of(request, _entry(slug), request.GET or None)
    return _form_page(request, forms)


@require_safe
def check(request: HttpRequest, slug: str) -> HttpResponse:
    """Return the fit of the form's wishes as a fragment; asked while a person types."""
    forms = _Forms.of(request, _entry(slug), request.GET)
    return shell.page(request, "deploy", forms.context(), title=forms.entry.name)


@needs(Role.OPERATOR)
@require_http_methods(["GET", "HEAD", "POST"])
def deploy(request: HttpRequest, slug: str) -> HttpResponse:
    """Order the deployment and go to its page, where it starts; a refusal shows the form."""
    if request.method != "POST":
        return redirect("deploy-settings", slug=slug)
    forms = _Forms.of(request, _entry(slug), request.POST)
    if not forms.are_valid():
        return _form_page(request, forms, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    by_admin = may(user_of(request), Role.ADMIN)
    try:
        made = _order(forms.form.order(by_admin=by_admin), user_of(request).username)
    except Problem as problem:
        forms.refuse(problem)
        return _form_page(request, forms, status=HTTPStatus.UNPROCESSABLE_ENTITY)
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


@dataclass(frozen=True)
class _Forms:
    """The form of an order, and of all engine settings that it does not show itself."""

    entry: Entry
    form: DeployForm
    advanced: EngineForm | None
    """None for a model with an engine of its own: there is nothing of vLLM to set."""

    @classmethod
    def of(cls, request: HttpRequest, entry: Entry, data: QueryDict | None) -> "_Forms":
        form = DeployForm(entry, data)
        if entry.custom is not None:
            return cls(entry, form, None)
        variant, device = shelf.target(entry, form.wish())
        is_admin = may(user_of(request), Role.ADMIN)
        advanced = beside(variant, device, ENGINE_FIELDS, data, is_admin=is_admin)
        if advanced.is_bound:
            advanced.is_valid()  # what does not hold is left out, and said when it is ordered
            form.advanced = advanced.engine()
        return cls(entry, form, advanced)

    def are_valid(self) -> bool:
        return self.form.is_valid() and (self.advanced is None or self.advanced.is_valid())

    def refuse(self, problem: Problem) -> None:
        """Put the problem beside its field, whichever of the forms has it."""
        field = problem.extra.get("field", "")
        if self.advanced is not None and field in self.advanced.problem_fields:
            self.advanced.refuse(problem)
        else:
            self.form.refuse(problem)

    def context(self) -> dict[str, object]:
        seen = shelf.preview(self.entry, self.form.wish())
        return {
            "entry": self.entry,
            "form": self.form,
            "advanced": self.advanced,
            "chosen": len(self.form.advanced),
            "fit": seen.plan,
            "hosts": seen.hosts,
        }


def _form_page(request: HttpRequest, forms: _Forms, status: int = HTTPStatus.OK) -> HttpResponse:
    context = forms.context() | {"simulated": django_settings.ENGINE == SIMULATOR}
    return shell.page(request, "deploy", context, title=forms.entry.name, status=status)


def _entry(slug: str) -> Entry:
    try:
        return catalog.get(slug)
    except catalog.UnknownEntry as error:
        raise Http404(str(error)) from error
