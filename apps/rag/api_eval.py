"""Profiles, comparisons, judgements and evaluations over REST."""

from typing import Any
from uuid import UUID

import msgspec
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.idempotency import IdempotentWrites
from apps.accounts.states import Role
from apps.lib import clock
from apps.lib.paging import Pages
from apps.lib.problems import Problem
from apps.lib.strict import StrictSerializer
from apps.rag import asking, comparing, evaluating, presenting, profiles, queueing
from apps.rag.api import BASE, base_of
from apps.rag.models import Evaluation, Profile
from apps.rag.retrieval import LONGEST_QUERY_CHARACTERS, search
from apps.rag.serializers import (
    ConditionSerializer,
    NewProfile,
    ProfileSerializer,
    PromoteInput,
    TraceSerializer,
)
from apps.rag.settings import Retrieval

AT_ONCE_SECONDS = 3.0
"""A small evaluation is answered whole; a larger one goes on in the worker."""


class CompareInput(StrictSerializer):
    query = serializers.CharField(max_length=LONGEST_QUERY_CHARACTERS)
    profiles = serializers.ListField(
        child=serializers.CharField(max_length=80), min_length=2, max_length=4
    )
    top_k = serializers.IntegerField(min_value=1, max_value=100, default=10)
    filters = ConditionSerializer(many=True, required=False, default=list)
    builds = serializers.ListField(
        child=serializers.IntegerField(min_value=1),
        required=False,
        max_length=4,
        help_text="One for each profile, to compare indexes; left out: the live one for all.",
    )


class MovementSerializer(serializers.Serializer[Any]):
    chunk = serializers.IntegerField()
    document = serializers.CharField()
    ranks = serializers.ListField(child=serializers.IntegerField(allow_null=True))


class ComparisonSerializer(serializers.Serializer[Any]):
    columns = TraceSerializer(many=True)
    movements = MovementSerializer(many=True, help_text="Each chunk's rank in every column.")
    overlap = serializers.FloatField(help_text="Share of chunks that all columns have.")


class JudgementsInput(StrictSerializer):
    format = serializers.ChoiceField(choices=[(word, word) for word in ("trec", "csv", "jsonl")])
    text = serializers.CharField(trim_whitespace=False)
    questions = serializers.DictField(
        child=serializers.CharField(max_length=LONGEST_QUERY_CHARACTERS),
        required=False,
        default=dict,
        help_text="`{topic: text}`, for formats without the text.",
    )


class ImportedSerializer(serializers.Serializer[Any]):
    questions = serializers.IntegerField()
    imported = serializers.IntegerField()
    unknown_documents = serializers.ListField(child=serializers.CharField())
    unknown_documents_total = serializers.IntegerField()
    topics_without_text = serializers.ListField(child=serializers.CharField())


class QuestionSerializer(serializers.Serializer[Any]):
    key = serializers.CharField()
    text = serializers.CharField()
    judgements = serializers.DictField(child=serializers.IntegerField())


class ThumbInput(StrictSerializer):
    question = serializers.CharField(max_length=LONGEST_QUERY_CHARACTERS)
    document = serializers.CharField(max_length=255)
    up = serializers.BooleanField()


class EvaluateInput(StrictSerializer):
    profiles = serializers.ListField(
        child=serializers.CharField(max_length=80), min_length=1, max_length=4, required=False
    )
    questions = serializers.ChoiceField(
        choices=[(word, word) for word in ("all", "odd", "even")],
        default="all",
        help_text="Tune on odd ones, report on even ones.",
    )


class EvaluationSerializer(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    state = serializers.CharField(help_text="`queued`, `running`, `done`, `failed`.")
    reason = serializers.CharField()
    build = serializers.IntegerField(allow_null=True)
    questions = serializers.CharField()
    questions_total = serializers.IntegerField()
    questions_done = serializers.IntegerField()
    profiles = serializers.ListField(
        child=serializers.DictField(),
        help_text="Each with `ndcg_at_10` and its interval, `mrr_at_10`, `recall_at_100`, "
        "`precision_at_10`, `unjudged_at_10`, and wins and losses against the first.",
    )
    by_question = serializers.ListField(child=serializers.DictField())
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


def evaluation_row(row: Evaluation) -> dict[str, Any]:
    """Return a measurement as the API shows it."""
    names = ("state", "reason", "questions_total", "questions_done", "created_by", "created_at")
    return {
        "id": row.pk,
        **{name: getattr(row, name) for name in names},
        "finished_at": row.finished_at,
        "build": row.build.number if row.build else None,
        "questions": row.results.get("part", "all"),
        "profiles": row.results.get("profiles", []),
        "by_question": row.results.get("by_question", []),
    }


@extend_schema(parameters=[BASE])
class ProfileList(IdempotentWrites, GenericAPIView[Profile]):
    """Ways to retrieve. A version never changes: the same name again makes the next version."""

    serializer_class = ProfileSerializer
    pagination_class = Pages

    @extend_schema(operation_id="profiles_list", responses=ProfileSerializer(many=True))
    def get(self, request: Request, base: str) -> Response:
        rows = base_of(request, base).profiles.order_by("name", "-version")
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response([presenting.profile_row(row) for row in page])

    @extend_schema(
        operation_id="profiles_create", request=NewProfile, responses={201: ProfileSerializer}
    )
    def post(self, request: Request, base: str) -> Response:
        order = NewProfile(data=request.data)
        order.is_valid(raise_exception=True)
        made = profiles.save(
            base_of(request, base),
            name=order.validated_data["name"],
            settings=msgspec.convert(dict(order.validated_data["settings"]), Retrieval),
            user=caller(request),
            now=clock.now(),
        )
        return Response(presenting.profile_row(made), status=201)


@extend_schema(parameters=[BASE])
class Promote(IdempotentWrites, GenericAPIView[Profile]):
    """Let a profile version answer every question that names none."""

    serializer_class = ProfileSerializer
    pagination_class = None

    @extend_schema(operation_id="profiles_promote", request=PromoteInput, responses=PromoteInput)
    def post(self, request: Request, base: str) -> Response:
        order = PromoteInput(data=request.data)
        order.is_valid(raise_exception=True)
        label = profiles.promote(
            base_of(request, base), order.validated_data["profile"], user=caller(request)
        )
        return Response({"profile": label})


@extend_schema(parameters=[BASE])
class Compare(GenericAPIView[Any]):
    """One question by two to four profiles, side by side, with every chunk's ranks."""

    serializer_class = ComparisonSerializer
    pagination_class = None
    required_role = {"POST": Role.VIEWER}

    @extend_schema(operation_id="knowledge_bases_compare", request=CompareInput)
    def post(self, request: Request, base: str) -> Response:
        order = CompareInput(data=request.data)
        order.is_valid(raise_exception=True)
        wanted, found = order.validated_data, base_of(request, base)
        names, builds = wanted["profiles"], wanted.get("builds") or []
        if builds and len(builds) != len(names):
            raise Problem(400, "invalid", "builds: name one for each profile, or none.")
        traces = []
        for at, name in enumerate(names):
            one = {**wanted, "profile": name, "build": builds[at] if builds else None}
            traces.append(search(asking.asked(found, one, user=caller(request))))
        columns = [{**presenting.trace_row(trace), "take_home": {}} for trace in traces]
        return Response({"columns": columns, **comparing.movements(traces)})


@extend_schema(parameters=[BASE])
class Judgements(GenericAPIView[Any]):
    """Judged questions; import more from TREC qrels, CSV or JSONL."""

    serializer_class = QuestionSerializer
    pagination_class = Pages

    @extend_schema(operation_id="judgements_list", responses=QuestionSerializer(many=True))
    def get(self, request: Request, base: str) -> Response:
        rows = base_of(request, base).questions.prefetch_related("judgements").order_by("id")
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response(
            [
                {
                    "key": row.key,
                    "text": row.text,
                    "judgements": {one.document: one.grade for one in row.judgements.all()},
                }
                for row in page
            ]
        )

    @extend_schema(
        operation_id="judgements_import", request=JudgementsInput, responses=ImportedSerializer
    )
    def post(self, request: Request, base: str) -> Response:
        order = JudgementsInput(data=request.data)
        order.is_valid(raise_exception=True)
        wanted = order.validated_data
        told = evaluating.import_judgements(
            base_of(request, base),
            text=wanted["text"],
            form=wanted["format"],
            questions=wanted["questions"],
            user=caller(request),
        )
        return Response(told)


@extend_schema(parameters=[BASE])
class Thumbs(GenericAPIView[Any]):
    """Judge a document for a question, as its reader did."""

    serializer_class = QuestionSerializer
    pagination_class = None
    required_role = {"POST": Role.VIEWER}

    @extend_schema(operation_id="thumbs_create", request=ThumbInput, responses={204: None})
    def post(self, request: Request, base: str) -> Response:
        order = ThumbInput(data=request.data)
        order.is_valid(raise_exception=True)
        wanted = order.validated_data
        evaluating.thumb(
            base_of(request, base),
            question=wanted["question"],
            document=wanted["document"],
            is_up=wanted["up"],
        )
        return Response(status=204)


@extend_schema(parameters=[BASE])
class Evaluate(GenericAPIView[Evaluation]):
    """Measure profiles on the judged questions. 202: it goes on in the worker."""

    serializer_class = EvaluationSerializer
    pagination_class = None

    @extend_schema(
        operation_id="knowledge_bases_evaluate",
        request=EvaluateInput,
        responses={200: EvaluationSerializer, 202: EvaluationSerializer},
    )
    def post(self, request: Request, base: str) -> Response:
        order = EvaluateInput(data=request.data)
        order.is_valid(raise_exception=True)
        wanted, now = order.validated_data, clock.now()
        row = evaluating.begin(
            base_of(request, base),
            profiles=wanted.get("profiles") or [""],
            part=wanted["questions"],
            user=caller(request),
            now=now,
        )
        mine = evaluating.take(row, now)
        done = mine and evaluating.work_on(row, seconds=AT_ONCE_SECONDS, now=now)
        if not done:
            queueing.evaluate_soon()
        return Response(evaluation_row(row), status=200 if done else 202)


@extend_schema(parameters=[BASE])
class EvaluationList(GenericAPIView[Evaluation]):
    """Measurements, newest first."""

    serializer_class = EvaluationSerializer
    pagination_class = Pages

    @extend_schema(operation_id="evaluations_list", responses=EvaluationSerializer(many=True))
    def get(self, request: Request, base: str) -> Response:
        rows = base_of(request, base).evaluations.select_related("build").order_by("-created_at")
        page = self.paginate_queryset(rows) or []
        return self.get_paginated_response([evaluation_row(row) for row in page])


@extend_schema(parameters=[BASE])
class EvaluationDetail(GenericAPIView[Evaluation]):
    """One measurement."""

    serializer_class = EvaluationSerializer
    pagination_class = None

    @extend_schema(operation_id="evaluations_retrieve")
    def get(self, request: Request, base: str, evaluation: UUID) -> Response:
        rows = base_of(request, base).evaluations.select_related("build")
        found = rows.filter(pk=evaluation).first()
        if found is None:
            raise Problem(404, "not_found", f"There is no evaluation {evaluation}.")
        return Response(evaluation_row(found))
