"""Knowledge bases, their documents and index builds over REST."""

from typing import Any
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.lib import clock
from apps.lib.paging import Pages
from apps.lib.problems import Problem
from apps.rag import actions, embedding, files, presenting, queries, queueing, upkeep, vectors
from apps.rag.actions import BuildPlan
from apps.rag.models import Build, Document, KnowledgeBase
from apps.rag.parsing.reader import Unreadable, reader
from apps.rag.serializers import (
    BuildInput,
    BuildSerializer,
    DocumentSerializer,
    KnowledgeBasePatch,
    KnowledgeBaseSerializer,
    NewKnowledgeBase,
    PlaceOnPageSerializer,
    TextSerializer,
    UploadSerializer,
    VectorsSerializer,
)
from apps.rag.vectors import VectorsAway, VectorsRefused

BASE = OpenApiParameter(
    "base", OpenApiTypes.STR, OpenApiParameter.PATH, description="Slug or id of a knowledge base."
)


def base_of(request: Request, name: str) -> KnowledgeBase:
    """Return the knowledge base of that name in the caller's team. Raises Problem 404."""
    return queries.knowledge_base(caller(request), name)


class KnowledgeBaseList(IdempotentWrites, GenericAPIView[KnowledgeBase]):
    """Knowledge bases of your team."""

    serializer_class = KnowledgeBaseSerializer
    pagination_class = Pages

    @extend_schema(
        operation_id="knowledge_bases_list", responses=KnowledgeBaseSerializer(many=True)
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(queries.knowledge_bases(caller(request))) or []
        return self.get_paginated_response(presenting.base_rows(page))

    @extend_schema(
        operation_id="knowledge_bases_create",
        request=NewKnowledgeBase,
        responses={201: KnowledgeBaseSerializer},
    )
    def post(self, request: Request) -> Response:
        order = NewKnowledgeBase(data=request.data)
        order.is_valid(raise_exception=True)
        wanted = order.validated_data
        asked = wanted.get("embedding_deployment", None)
        if "embedding_deployment" in wanted and asked is None:
            asked = ""
        base = actions.create(
            name=wanted["name"],
            description=wanted["description"],
            embedder=embedding.choose(asked),
            user=caller(request),
            now=clock.now(),
        )
        response = Response(presenting.base_row(base), status=201)
        response["Location"] = f"/api/v1/knowledge-bases/{base.slug}/"
        return response


@extend_schema(parameters=[BASE])
class KnowledgeBaseDetail(IdempotentWrites, GenericAPIView[KnowledgeBase]):
    """One knowledge base."""

    serializer_class = KnowledgeBaseSerializer
    pagination_class = None

    @extend_schema(operation_id="knowledge_bases_retrieve")
    def get(self, request: Request, base: str) -> Response:
        return Response(presenting.base_row(base_of(request, base)))

    @extend_schema(operation_id="knowledge_bases_update", request=KnowledgeBasePatch)
    def patch(self, request: Request, base: str) -> Response:
        patch = KnowledgeBasePatch(data=request.data)
        patch.is_valid(raise_exception=True)
        found = base_of(request, base)
        actions.change(found, patch=patch.validated_data, user=caller(request))
        return Response(presenting.base_row(base_of(request, str(found.uid))))

    @extend_schema(operation_id="knowledge_bases_delete", responses={204: None})
    def delete(self, request: Request, base: str) -> Response:
        """Remove it with its documents, chunks and vectors."""
        actions.delete(base_of(request, base), user=caller(request), now=clock.now())
        return Response(status=204)


@extend_schema(parameters=[BASE])
class DocumentList(GenericAPIView[Document]):
    """Its documents, newest first; upload more here. The same content twice is one document."""

    serializer_class = DocumentSerializer
    pagination_class = Pages
    parser_classes = [MultiPartParser]

    @extend_schema(operation_id="documents_list", responses=DocumentSerializer(many=True))
    def get(self, request: Request, base: str) -> Response:
        found = base_of(request, base)
        page = self.paginate_queryset(queries.documents(found)) or []
        return self.get_paginated_response(presenting.document_rows(found, page))

    @extend_schema(
        operation_id="documents_create",
        request={"multipart/form-data": UploadSerializer},
        responses={201: DocumentSerializer, 200: DocumentSerializer},
    )
    def post(self, request: Request, base: str) -> Response:
        """Upload one `file`: PDF, DOCX, HTML, Markdown, text or CSV, told by its content."""
        found = base_of(request, base)
        order = UploadSerializer(data=request.data)
        order.is_valid(raise_exception=True)
        file = order.validated_data["file"]
        document, is_new = actions.upload(
            found,
            name=file.name or "",
            file=file,
            metadata=order.validated_data["metadata"],
            user=caller(request),
            now=clock.now(),
        )
        if is_new:
            queueing.ingest_soon()
        row = presenting.document_rows(found, [document])[0]
        return Response(row, status=201 if is_new else 200)


@extend_schema(parameters=[BASE])
class DocumentDetail(IdempotentWrites, GenericAPIView[Document]):
    """One document."""

    serializer_class = DocumentSerializer
    pagination_class = None

    @extend_schema(operation_id="documents_retrieve")
    def get(self, request: Request, base: str, document: UUID) -> Response:
        found = base_of(request, base)
        return Response(presenting.document_rows(found, [queries.document(found, document)])[0])

    @extend_schema(operation_id="documents_delete", responses={204: None})
    def delete(self, request: Request, base: str, document: UUID) -> Response:
        """Hide it at once; its vectors, chunks and file follow."""
        found = queries.document(base_of(request, base), document)
        actions.delete_document(found, user=caller(request), now=clock.now())
        queueing.tidy_soon()
        return Response(status=204)


@extend_schema(parameters=[BASE])
class DocumentRetry(IdempotentWrites, GenericAPIView[Document]):
    """Try a failed document again."""

    serializer_class = DocumentSerializer
    pagination_class = None

    @extend_schema(operation_id="documents_retry", request=None, responses=DocumentSerializer)
    def post(self, request: Request, base: str, document: UUID) -> Response:
        found = base_of(request, base)
        actions.retry(queries.document(found, document), user=caller(request), now=clock.now())
        queueing.ingest_soon()
        return Response(presenting.document_rows(found, [queries.document(found, document)])[0])


@extend_schema(parameters=[BASE])
class DocumentText(GenericAPIView[Document]):
    """The clean text of a document, in which every chunk and citation has its exact place."""

    serializer_class = TextSerializer
    pagination_class = None

    @extend_schema(operation_id="documents_text")
    def get(self, request: Request, base: str, document: UUID) -> Response:
        found = queries.document(base_of(request, base), document)
        try:
            text, pages = files.text(found)
        except FileNotFoundError as error:
            raise Problem(409, "not_parsed", f"{found.name} has not been read yet.") from error
        rows = [{"number": p.number, "start": p.start, "end": p.end} for p in pages]
        return Response({"text": text, "pages": rows})


@extend_schema(parameters=[BASE])
class DocumentPage(GenericAPIView[Document]):
    """A page of a PDF as a picture, drawn by a confined process."""

    serializer_class = DocumentSerializer
    pagination_class = None

    @extend_schema(
        operation_id="documents_page", responses={(200, "image/png"): OpenApiTypes.BINARY}
    )
    def get(self, request: Request, base: str, document: UUID, page: int) -> HttpResponse:
        found = queries.document(base_of(request, base), document)
        if found.kind != "pdf" or not 1 <= page <= (found.pages or 0):
            raise Problem(404, "not_found", f"{found.name} has no page {page}.")
        with files.original(found) as file:
            try:
                picture = reader.picture(file, page)
            except Unreadable as error:
                raise Problem(422, error.code, f"{found.name}: {error}") from error
        return HttpResponse(
            picture,
            content_type="image/png",
            headers={"Cache-Control": "private, max-age=3600", "ETag": f'"{found.sha256}-{page}"'},
        )


@extend_schema(parameters=[BASE])
class ChunkDetail(GenericAPIView[Any]):
    """A chunk with its place: characters of the clean text, and boxes on a PDF's page."""

    serializer_class = PlaceOnPageSerializer
    pagination_class = None

    @extend_schema(operation_id="chunks_retrieve")
    def get(self, request: Request, base: str, chunk: int) -> Response:
        found = queries.chunk(base_of(request, base), chunk)
        boxes: list[Any] = []
        if found.document.kind == "pdf" and found.page is not None:
            with files.original(found.document) as file:
                try:
                    boxes = list(reader.boxes(file, found.page, files.on_page(found)))
                except Unreadable:
                    boxes = []
        return Response({**presenting.chunk_row(found), "boxes": boxes})


@extend_schema(parameters=[BASE])
class BuildList(IdempotentWrites, GenericAPIView[Build]):
    """Index builds: another embedder or other chunks are built beside the live index."""

    serializer_class = BuildSerializer
    pagination_class = Pages

    @extend_schema(operation_id="builds_list", responses=BuildSerializer(many=True))
    def get(self, request: Request, base: str) -> Response:
        page = self.paginate_queryset(base_of(request, base).builds.order_by("-number")) or []
        return self.get_paginated_response([presenting.build_row(build) for build in page])

    @extend_schema(
        operation_id="builds_create", request=BuildInput, responses={201: BuildSerializer}
    )
    def post(self, request: Request, base: str) -> Response:
        """Begin another index; search it with `build`, then flip to it."""
        order = BuildInput(data=request.data)
        order.is_valid(raise_exception=True)
        wanted = order.validated_data
        found = base_of(request, base)
        asked = wanted.get("embedding_deployment", found.embedding_deployment or None)
        plan = BuildPlan(
            embedder=embedding.choose(asked),
            chunk_characters=wanted.get("chunk_characters"),
            overlap_characters=wanted.get("overlap_characters"),
            flip_when_ready=wanted["flip_when_ready"],
        )
        build = actions.rebuild(found, plan=plan, user=caller(request), now=clock.now())
        queueing.ingest_soon()
        return Response(presenting.build_row(build), status=201)


@extend_schema(parameters=[BASE])
class BuildDetail(IdempotentWrites, GenericAPIView[Build]):
    """One index build; DELETE gives up one that is not live."""

    serializer_class = BuildSerializer
    pagination_class = None

    @extend_schema(operation_id="builds_retrieve")
    def get(self, request: Request, base: str, number: int) -> Response:
        return Response(presenting.build_row(queries.build(base_of(request, base), number)))

    @extend_schema(operation_id="builds_delete", responses={204: None})
    def delete(self, request: Request, base: str, number: int) -> Response:
        build = queries.build(base_of(request, base), number)
        actions.give_up(build, user=caller(request), now=clock.now())
        return Response(status=204)


@extend_schema(parameters=[BASE])
class BuildFlip(IdempotentWrites, GenericAPIView[Build]):
    """Let a complete build answer from now on; queries under way finish on the old one."""

    serializer_class = BuildSerializer
    pagination_class = None

    @extend_schema(operation_id="builds_flip", request=None, responses=BuildSerializer)
    def post(self, request: Request, base: str, number: int) -> Response:
        found = base_of(request, base)
        try:
            upkeep.flip(
                queries.build(found, number), actor=caller(request).username, now=clock.now()
            )
        except VectorsAway as error:
            raise vectors.away(error) from error
        return Response(presenting.build_row(queries.build(found, number)))


class VectorsStatus(GenericAPIView[Any]):
    """The Milvus that holds the vectors, and what it can do."""

    serializer_class = VectorsSerializer
    pagination_class = None

    @extend_schema(operation_id="vectors_status")
    def get(self, request: Request) -> Response:
        row: dict[str, Any] = {"reachable": False, "address": vectors.shown_address()}
        row |= {"version": "", "lexical": False, "aliases": False, "index": "", "reason": ""}
        try:
            able = vectors.store().capabilities()
        except (VectorsAway, VectorsRefused) as error:
            return Response(row | {"reason": str(error)})
        names = ("version", "lexical", "aliases", "index")
        return Response(row | {"reachable": True} | {name: getattr(able, name) for name in names})
