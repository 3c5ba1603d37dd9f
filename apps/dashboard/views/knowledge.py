"""Knowledge bases: their list, their documents, one document with a passage marked, their index."""

from http import HTTPStatus
from uuid import UUID

from django.core.files.uploadedfile import UploadedFile
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.accounts.states import Role
from apps.dashboard import knowledge, shell
from apps.dashboard.access import may, needs, refused, user_of
from apps.dashboard.answers import back, carry_out, name_was_typed, or_404
from apps.dashboard.knowledge_forms import AttachForm, BuildForm, KnowledgeForm
from apps.lib import clock
from apps.lib.problems import Problem
from apps.rag import (
    actions,
    aliases,
    embedding,
    files,
    presenting,
    queries,
    queueing,
    upkeep,
    vectors,
)
from apps.rag.actions import BuildPlan
from apps.rag.models import Chunk, Document, KnowledgeBase
from apps.rag.vectors import VectorsAway, VectorsRefused

MOST_FILES = 50
"""Of one upload."""


@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest) -> HttpResponse:
    """Show the knowledge bases of the person's team; a POST makes one and opens it."""
    if request.method != "POST":
        return _list(request, KnowledgeForm())
    if not may(user_of(request), Role.OPERATOR):
        return refused(request, Role.OPERATOR)
    form = KnowledgeForm(request.POST)
    if not form.is_valid():
        return _list(request, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    given = form.cleaned_data
    try:
        base = actions.create(
            name=given["name"],
            description=given["description"],
            embedder=embedding.choose(form.chosen()),
            user=user_of(request),
            now=clock.now(),
        )
    except Problem as problem:
        form.refuse(problem)
        return _list(request, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return back(request, reverse("knowledge-base", args=[base.slug]))


def _list(
    request: HttpRequest, form: KnowledgeForm, *, status: int = HTTPStatus.OK
) -> HttpResponse:
    bases = presenting.base_rows(list(queries.knowledge_bases(user_of(request))))
    context = {"bases": bases, "form": form}
    return shell.page(
        request, "knowledge", context, title="Knowledge", live="knowledge", status=status
    )


def base_or_404(request: HttpRequest, slug: str) -> KnowledgeBase:
    """Return the knowledge base `slug` of the person's team. Raises Http404."""
    return or_404(lambda: queries.knowledge_base(user_of(request), slug))


@require_safe
def documents(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the documents of a knowledge base and how far they are."""
    base = base_or_404(request, slug)
    found = list(queries.documents(base)[: knowledge.MOST_ROWS])
    context = knowledge.common(base, "documents", user_of(request))
    context["documents"] = knowledge.document_rows(base, found)
    return shell.page(
        request, "knowledge_documents", context, title=base.name, live=f"knowledge:{base.slug}"
    )


@needs(Role.OPERATOR)
@require_POST
def upload(request: HttpRequest, slug: str) -> HttpResponse:
    """Take one file or several; what cannot be taken is said by name."""
    base = base_or_404(request, slug)
    given = request.FILES.getlist("file")
    return carry_out(
        request, lambda: _store(request, base, given), done="", to=_address("knowledge-base", base)
    )


def _store(request: HttpRequest, base: KnowledgeBase, given: "list[UploadedFile[bytes]]") -> None:
    """Store every file that can be. Raises Problem 400 naming those that cannot."""
    if not 1 <= len(given) <= MOST_FILES:
        raise Problem(400, "invalid", f"file: choose one to {MOST_FILES} files.")
    wrong = []
    for file in given:
        try:
            actions.upload(
                base,
                name=file.name or "",
                file=file,
                metadata={},
                user=user_of(request),
                now=clock.now(),
            )
        except Problem as problem:
            wrong.append(f"{file.name}: {problem.detail.removeprefix('file: ')}")
    queueing.ingest_soon()
    if wrong:
        raise Problem(400, "invalid", " · ".join(wrong))


@needs(Role.OPERATOR)
@require_POST
def retry(request: HttpRequest, slug: str, document: UUID) -> HttpResponse:
    """Try a failed document again."""
    base, found = _document(request, slug, document)

    def order() -> None:
        actions.retry(found, user=user_of(request), now=clock.now())
        queueing.ingest_soon()

    return carry_out(
        request, order, done=f"{found.name} is tried again.", to=_address("knowledge-base", base)
    )


@needs(Role.OPERATOR)
@require_POST
def remove(request: HttpRequest, slug: str, document: UUID) -> HttpResponse:
    """Remove a document, after its name was typed."""
    base, found = _document(request, slug, document)
    to = _address("knowledge-base", base)
    if not name_was_typed(request, found.name):
        return back(request, to)

    def order() -> None:
        actions.delete_document(found, user=user_of(request), now=clock.now())
        queueing.tidy_soon()

    return carry_out(request, order, done=f"{found.name} is deleted.", to=to)


@needs(Role.OPERATOR)
@require_POST
def delete(request: HttpRequest, slug: str) -> HttpResponse:
    """Remove the knowledge base, after its name was typed."""
    base = base_or_404(request, slug)
    if not name_was_typed(request, base.slug):
        return back(request, _address("knowledge-index", base))

    def order() -> None:
        actions.delete(base, user=user_of(request), now=clock.now())
        queueing.tidy_soon()

    return carry_out(request, order, done=f"{base.name} is deleted.", to=reverse("knowledge"))


@require_safe
def document(request: HttpRequest, slug: str, document: UUID) -> HttpResponse:
    """Show the clean text of a document, with the passage `chunk` marked."""
    base, found = _document(request, slug, document)
    try:
        text, pages = files.text(found)
    except FileNotFoundError as error:
        raise Http404(f"{found.name} has not been read yet.") from error
    chunk = _chunk(base, found, request.GET.get("chunk", ""))
    context = knowledge.common(base, "documents", user_of(request))
    context |= {
        "document": knowledge.document_rows(base, [found])[0],
        "marked": knowledge.marked(text, chunk),
        "chunk": chunk,
        "page": chunk.page if chunk and found.kind == "pdf" else None,
        "pages": len(pages),
    }
    return shell.page(request, "knowledge_document", context, title=found.name)


def _chunk(base: KnowledgeBase, found: Document, given: str) -> Chunk | None:
    if not given.isdecimal():
        return None
    chunk = or_404(lambda: queries.chunk(base, int(given)))
    return chunk if chunk.document_id == found.pk else None


def _document(request: HttpRequest, slug: str, uid: UUID) -> tuple[KnowledgeBase, Document]:
    base = base_or_404(request, slug)
    return base, or_404(lambda: queries.document(base, uid))


def _address(name: str, base: KnowledgeBase) -> str:
    return reverse(name, args=[base.slug])


@require_http_methods(["GET", "HEAD", "POST"])
def builds(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the index builds; a POST begins another beside the live one."""
    base = base_or_404(request, slug)
    if request.method != "POST":
        return _builds(request, base, BuildForm())
    if not may(user_of(request), Role.OPERATOR):
        return refused(request, Role.OPERATOR)
    form = BuildForm(request.POST)
    if not form.is_valid():
        return _builds(request, base, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    given = form.cleaned_data
    try:
        plan = BuildPlan(
            embedder=embedding.choose(form.chosen()),
            chunk_characters=given["chunk_characters"],
            overlap_characters=given["overlap_characters"],
            flip_when_ready=given["flip_when_ready"],
        )
        actions.rebuild(base, plan=plan, user=user_of(request), now=clock.now())
    except Problem as problem:
        form.refuse(problem)
        return _builds(request, base, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    queueing.ingest_soon()
    return back(request, _address("knowledge-index", base))


def _builds(
    request: HttpRequest, base: KnowledgeBase, form: BuildForm, *, status: int = HTTPStatus.OK
) -> HttpResponse:
    context = knowledge.common(base, "index", user_of(request))
    rows = base.builds.order_by("-number")[:20]
    context |= {"builds": [presenting.build_row(build) for build in rows], "form": form}
    context |= {"milvus": _milvus(), "names": aliases.attached(base), "attach": AttachForm()}
    return shell.page(
        request,
        "knowledge_index",
        context,
        title=base.name,
        live=f"knowledge:{base.slug}",
        status=status,
    )


def _milvus() -> dict[str, str]:
    try:
        able = vectors.store().capabilities()
    except (VectorsAway, VectorsRefused) as error:
        return {"address": vectors.shown_address(), "reason": str(error)}
    return {"address": vectors.shown_address(), "version": able.version, "index": able.index}


@needs(Role.OPERATOR)
@require_POST
def flip(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Let a complete build answer from now on."""
    base = base_or_404(request, slug)
    build = or_404(lambda: queries.build(base, number))

    def order() -> None:
        try:
            upkeep.flip(build, actor=user_of(request).username, now=clock.now())
        except VectorsAway as error:
            raise vectors.away(error) from error

    return carry_out(
        request, order, done=f"Build {number} answers now.", to=_address("knowledge-index", base)
    )


@needs(Role.OPERATOR)
@require_POST
def give_up(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Give up a build that is not live."""
    base = base_or_404(request, slug)
    build = or_404(lambda: queries.build(base, number))
    return carry_out(
        request,
        lambda: actions.give_up(build, user=user_of(request), now=clock.now()),
        done=f"Build {number} is given up.",
        to=_address("knowledge-index", base),
    )


@needs(Role.OPERATOR)
@require_POST
def attach(request: HttpRequest, slug: str) -> HttpResponse:
    """Put the knowledge base in front of a deployment, as one model name."""
    base, deployment = base_or_404(request, slug), request.POST.get("deployment", "")

    def order() -> None:
        aliases.attach(base, deployment=deployment, name="", user=user_of(request), now=clock.now())

    return carry_out(
        request,
        order,
        done=f"{deployment}+{base.slug} answers from here now.",
        to=_address("knowledge-index", base),
    )


@needs(Role.OPERATOR)
@require_POST
def detach(request: HttpRequest, slug: str, name: str) -> HttpResponse:
    """Take a model name away."""
    base = base_or_404(request, slug)
    alias = aliases.attached(base).filter(name=name).first()
    if alias is None:
        raise Http404(f"There is no model name {name}.")
    return carry_out(
        request,
        lambda: aliases.detach(alias, user=user_of(request)),
        done=f"{name} is taken away.",
        to=_address("knowledge-index", base),
    )
