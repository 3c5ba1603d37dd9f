"""Ask a knowledge base, compare retrieval profiles, measure them on judged questions."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from apps.accounts.states import Role
from apps.dashboard import knowledge, shell
from apps.dashboard.access import needs, user_of
from apps.dashboard.answers import back, carry_out
from apps.dashboard.knowledge_forms import JudgementsForm, ProfileForm
from apps.dashboard.views.knowledge import base_or_404
from apps.lib import addresses, clock
from apps.lib.problems import Problem
from apps.rag import asking, comparing, evaluating, presenting, profiles, queueing
from apps.rag.models import Evaluation, KnowledgeBase
from apps.rag.retrieval import LONGEST_QUERY_CHARACTERS, search

MOST_COLUMNS = 4
AT_ONCE_SECONDS = 2.0


@require_safe
def ask(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the page that asks; its script speaks to `ask/` of the API."""
    base = base_or_404(request, slug)
    context = knowledge.common(base, "ask", user_of(request))
    context |= {
        "chats": knowledge.deployments_that("chat"),
        "profiles": knowledge.profile_names(base),
        "promoted": knowledge.promoted(base),
        "gateway": addresses.gateway_url(
            request.get_host(), settings.GATEWAY_ADDR, secure=request.is_secure()
        ),
    }
    return shell.page(request, "knowledge_ask", context, title=base.name)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One profile's retrieval in a comparison; each hit has `moved`: ranks up (+) or down (-)
    against the first column, None where the first has it not."""

    name: str
    trace: dict[str, Any]


@require_safe
def compare(request: HttpRequest, slug: str) -> HttpResponse:
    """Show one question by two to four profiles, side by side; the question is in the address."""
    base = base_or_404(request, slug)
    names = knowledge.profile_names(base)
    query = request.GET.get("q", "").strip()
    chosen = [name for name in request.GET.getlist("profile") if name in names][:MOST_COLUMNS]
    if not chosen:
        chosen = list(dict.fromkeys([knowledge.promoted(base), *names]))[:2]
    context = knowledge.common(base, "compare", user_of(request))
    context |= {"names": names, "chosen": chosen, "q": query, "columns": [], "problem": ""}
    if query:
        try:
            context |= _compared(request, base, query, chosen)
        except Problem as problem:
            context["problem"] = problem.detail
    return shell.page(request, "knowledge_compare", context, title=base.name)


def _compared(
    request: HttpRequest, base: KnowledgeBase, query: str, names: list[str]
) -> dict[str, Any]:
    if len(query) > LONGEST_QUERY_CHARACTERS:
        most = f"{LONGEST_QUERY_CHARACTERS:,}"
        raise Problem(400, "invalid", f"A question has at most {most} characters.")
    traces = [
        search(
            asking.asked(
                base, {"query": query, "profile": name, "top_k": 10}, user=user_of(request)
            )
        )
        for name in names
    ]
    told = comparing.movements(traces)
    first = {row["chunk"]: row["ranks"][0] for row in told["movements"]}
    columns = []
    for name, trace in zip(names, traces, strict=True):
        row = presenting.trace_row(trace)
        for hit in row["hits"]:
            was = first[hit["chunk"]]
            hit["moved"] = None if was is None else was - hit["rank"]
        columns.append(Column(name=name, trace=row))
    return {"columns": columns, "overlap": told["overlap"]}


@require_safe
def evaluate(request: HttpRequest, slug: str) -> HttpResponse:
    """Show judged questions, measurements and profiles."""
    base = base_or_404(request, slug)
    return _evaluate(request, base)


def _evaluate(
    request: HttpRequest,
    base: KnowledgeBase,
    *,
    judgements: JudgementsForm | None = None,
    profile: ProfileForm | None = None,
    status: int = HTTPStatus.OK,
) -> HttpResponse:
    context = knowledge.common(base, "evaluate", user_of(request))
    newest = list(base.evaluations.order_by("-created_at")[:10])
    context |= {
        "names": knowledge.profile_names(base),
        "promoted": knowledge.promoted(base),
        "profiles": base.profiles.order_by("name", "-version"),
        "questions": base.questions.count(),
        "runs": [_measured(base, row) for row in newest],
        "judgements": judgements or JudgementsForm(),
        "profile_form": profile or ProfileForm(),
    }
    return shell.page(
        request,
        "knowledge_evaluate",
        context,
        title=base.name,
        live=f"knowledge:{base.slug}",
        status=status,
    )


def _measured(base: KnowledgeBase, row: Evaluation) -> dict[str, Any]:
    texts = dict(base.questions.values_list("key", "text")) if row.state == "done" else {}
    widest = row.results.get("by_question", [])[:8]
    return {
        "row": row,
        "part": row.results.get("part", "all"),
        "profiles": row.results.get("profiles", []),
        "widest": [{**one, "text": texts.get(one["question"], "")} for one in widest],
        "ratio": row.questions_done / row.questions_total if row.questions_total else 0.0,
    }


def _to_evaluate(base: KnowledgeBase) -> str:
    return reverse("knowledge-evaluate", args=[base.slug])


@needs(Role.OPERATOR)
@require_POST
def import_judgements(request: HttpRequest, slug: str) -> HttpResponse:
    """Add judged questions from a file or from text."""
    base = base_or_404(request, slug)
    form = JudgementsForm(request.POST, request.FILES)
    if not form.is_valid():
        return _evaluate(request, base, judgements=form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    try:
        evaluating.import_judgements(
            base,
            text=form.given(),
            form=form.cleaned_data["form"],
            questions={},
            user=user_of(request),
        )
    except Problem as problem:
        form.refuse(problem)
        return _evaluate(request, base, judgements=form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return back(request, _to_evaluate(base))


@needs(Role.OPERATOR)
@require_POST
def save_profile(request: HttpRequest, slug: str) -> HttpResponse:
    """Keep the next version of a profile."""
    base = base_or_404(request, slug)
    form = ProfileForm(request.POST)
    if not form.is_valid():
        return _evaluate(request, base, profile=form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return carry_out(
        request,
        lambda: profiles.save(
            base,
            name=form.cleaned_data["name"],
            settings=form.settings(),
            user=user_of(request),
            now=clock.now(),
        ),
        done=f"Profile {form.cleaned_data['name']} is saved.",
        to=_to_evaluate(base),
    )


@needs(Role.OPERATOR)
@require_POST
def promote(request: HttpRequest, slug: str) -> HttpResponse:
    """Let a profile answer every question that names none."""
    base = base_or_404(request, slug)
    name = request.POST.get("profile", "")
    return carry_out(
        request,
        lambda: profiles.promote(base, name, user=user_of(request)),
        done=f"{name} answers now.",
        to=_to_evaluate(base),
    )


@needs(Role.OPERATOR)
@require_POST
def measure(request: HttpRequest, slug: str) -> HttpResponse:
    """Measure the ticked profiles; what takes longer than a moment goes on in the worker."""
    base = base_or_404(request, slug)

    def order() -> None:
        now = clock.now()
        row = evaluating.begin(
            base,
            profiles=request.POST.getlist("profile") or [""],
            part=request.POST.get("questions", "all"),
            user=user_of(request),
            now=now,
        )
        mine = evaluating.take(row, now)
        if not (mine and evaluating.work_on(row, seconds=AT_ONCE_SECONDS, now=now)):
            queueing.evaluate_soon()

    return carry_out(request, order, done="", to=_to_evaluate(base))
