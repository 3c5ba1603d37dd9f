"""Search and ask over REST: the same trace as the page shows, plain or as a stream of events."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections
from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.api import caller
from apps.accounts.states import Role
from apps.lib import clock
from apps.lib.addresses import gateway_url
from apps.lib.problems import Problem
from apps.lib.strict import StrictSerializer
from apps.rag import answering, asking, presenting, runs, served, takehome
from apps.rag.answering import Answer, Prepared, Question
from apps.rag.api import BASE, base_of
from apps.rag.models import KnowledgeBase, Run
from apps.rag.retrieval import LONGEST_QUERY_CHARACTERS, search
from apps.rag.serializers import (
    ChunkSerializer,
    ConditionSerializer,
    HitSerializer,
    SearchInput,
    SettingsSerializer,
    TraceSerializer,
)
from apps.rag.served import ServedAway, ServedRefused


class AskInput(StrictSerializer):
    question = serializers.CharField(
        max_length=LONGEST_QUERY_CHARACTERS,
        error_messages={
            "max_length": f"A question has at most {LONGEST_QUERY_CHARACTERS:,} characters."
        },
    )
    deployment = serializers.CharField(max_length=63, help_text="A chat deployment.")
    stream = serializers.BooleanField(
        default=False, help_text="Answer as server-sent events: `trace`, `delta`…, `done`."
    )
    conversation = serializers.UUIDField(
        required=False, allow_null=True, help_text="Of an earlier answer: goes on with it."
    )
    profile = serializers.CharField(
        max_length=80, required=False, allow_blank=True, allow_null=True
    )
    top_k = serializers.IntegerField(min_value=1, max_value=100, required=False)
    settings = SettingsSerializer(required=False)
    filters = ConditionSerializer(many=True, required=False, default=list)
    max_tokens = serializers.IntegerField(
        min_value=answering.LEAST_ANSWER_TOKENS,
        max_value=32_768,
        default=answering.ANSWER_TOKENS,
        help_text="Of the answer.",
    )
    temperature = serializers.FloatField(
        min_value=0, max_value=2, required=False, allow_null=True, help_text="By default 0."
    )


class CitationSerializer(ChunkSerializer):
    number = serializers.IntegerField(help_text="As `[1]` in the answer.")
    cited = serializers.BooleanField(help_text="The answer refers to it.")


class UsageSerializer(serializers.Serializer[Any]):
    prompt_tokens = serializers.IntegerField(allow_null=True)
    cached_tokens = serializers.IntegerField(allow_null=True, help_text="As the engine reports.")
    output_tokens = serializers.IntegerField(allow_null=True)


class SegmentSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    tokens = serializers.IntegerField()
    known = serializers.IntegerField()


class PrefixSerializer(serializers.Serializer[Any]):
    segments = SegmentSerializer(many=True)
    prompt_tokens = serializers.IntegerField()
    predicted_tokens = serializers.IntegerField()
    reported_tokens = serializers.IntegerField(allow_null=True)
    broke = serializers.CharField(help_text="What kept the engine from reusing more.")


class AnswerSerializer(serializers.Serializer[Any]):
    run = serializers.UUIDField()
    conversation = serializers.UUIDField()
    answer = serializers.CharField()
    finish_reason = serializers.CharField()
    citations = CitationSerializer(many=True)
    unknown_citations = serializers.ListField(
        child=serializers.IntegerField(), help_text="Numbers in the answer that were never sent."
    )
    abstained = serializers.BooleanField()
    timings = serializers.DictField(child=serializers.FloatField(), help_text="Seconds by stage.")
    usage = UsageSerializer()
    prefix = PrefixSerializer(allow_null=True)
    replica = serializers.CharField()
    route = serializers.CharField()
    hits = HitSerializer(many=True)
    notices = serializers.ListField(child=serializers.CharField())
    profile = serializers.CharField()
    build = serializers.IntegerField()
    take_home = serializers.DictField(child=serializers.CharField())


class RunSerializer(serializers.Serializer[Any]):
    run = serializers.UUIDField()
    kind = serializers.CharField()
    profile = serializers.CharField()
    at = serializers.DateTimeField()
    timings = serializers.DictField(child=serializers.FloatField())
    usage = serializers.DictField()
    hits = serializers.ListField(child=serializers.IntegerField())
    cost_usd = serializers.FloatField(
        allow_null=True, help_text="Of all its calls; null until their records have come."
    )
    calls = serializers.ListField(child=serializers.DictField())


def take_home(
    request: Request, base: KnowledgeBase, what: str, body: Mapping[str, Any]
) -> dict[str, str]:
    """Return this call as code."""
    host = request.get_host()
    return takehome.snippets(
        address=f"{request.scheme}://{host}",
        gateway=gateway_url(host, settings.GATEWAY_ADDR, secure=request.is_secure()),
        path=f"/api/v1/knowledge-bases/{base.slug}/{what}/",
        body=body,
        model=f"{body.get('deployment', 'DEPLOYMENT')}+{base.slug}",
    )


@extend_schema(parameters=[BASE])
class Search(GenericAPIView[Any]):
    """The passages nearest to a question, with both ranks, both scores and the reason for each."""

    serializer_class = TraceSerializer
    pagination_class = None
    required_role = {"POST": Role.VIEWER}

    @extend_schema(operation_id="knowledge_bases_search", request=SearchInput)
    def post(self, request: Request, base: str) -> Response:
        order = SearchInput(data=request.data)
        order.is_valid(raise_exception=True)
        found, user = base_of(request, base), caller(request)
        wanted = order.validated_data
        trial = _trial(wanted)
        trace = search(asking.asked(found, wanted, user=user, trial=trial))
        runs.record(
            trace, kind="search", user=user, usage={}, timings=trace.timings, now=clock.now()
        )
        body = take_home(request, found, "search", _sent(request))
        return Response({**presenting.trace_row(trace), "take_home": body})


@extend_schema(parameters=[BASE])
class Ask(GenericAPIView[Any]):
    """An answer from the passages, with checked citations, timings, tokens and the prefix view."""

    serializer_class = AnswerSerializer
    pagination_class = None
    required_role = {"POST": Role.VIEWER}

    def perform_content_negotiation(
        self, request: Request, force: bool = False
    ) -> tuple[BaseRenderer, str]:
        """Answer whatever is accepted: `stream` decides, not `Accept`."""
        return JSONRenderer(), "application/json"

    @extend_schema(operation_id="knowledge_bases_ask", request=AskInput)
    def post(self, request: Request, base: str) -> HttpResponseBase:
        order = AskInput(data=request.data)
        order.is_valid(raise_exception=True)
        wanted = order.validated_data
        found, user = base_of(request, base), caller(request)
        trace = search(asking.asked(found, wanted, user=user, trial=_trial(wanted)))
        question = Question(
            text=wanted["question"],
            user=user,
            deployment=wanted["deployment"],
            conversation=wanted.get("conversation"),
            answer_tokens=wanted["max_tokens"],
            temperature=wanted.get("temperature") or 0.0,
        )
        prepared = answering.prepare(question, trace)
        extra = {"take_home": take_home(request, found, "ask", _sent(request))}
        if wanted["stream"]:
            return StreamingHttpResponse(
                events(prepared, extra),
                content_type="text/event-stream",
                headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            )
        return Response({**answered(prepared), **extra})


@extend_schema(parameters=[BASE])
class RunDetail(GenericAPIView[Run]):
    """The figures of a run: stages, tokens, and what its calls cost."""

    serializer_class = RunSerializer
    pagination_class = None

    @extend_schema(operation_id="knowledge_bases_run")
    def get(self, request: Request, base: str, run: UUID) -> Response:
        found = Run.objects.filter(pk=run, knowledge_base=base_of(request, base)).first()
        if found is None:
            raise Problem(404, "not_found", f"There is no run {run}.")
        names = ("kind", "profile", "at", "timings", "usage", "hits")
        row = {name: getattr(found, name) for name in names}
        return Response({"run": found.pk, **row, **runs.cost_of(run)})


def answered(prepared: Prepared) -> dict[str, Any]:
    """Return the whole result of a prompt. Raises Problem 422 or 503."""
    answer = Answer()
    try:
        for chunk in served.chat_now(
            prepared.body(), key=prepared.trace.asked.key, parent=prepared.trace.asked.run
        ):
            answer.take(chunk)
    except ServedAway as error:
        raise served.away(error) from error
    except ServedRefused as error:
        raise served.refused(error) from error
    return answering.finish(prepared, answer, clock.now())


async def events(prepared: Prepared, extra: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """Yield the answer as server-sent events; a browser that goes away stops the engine."""
    answer = Answer()
    asked = prepared.trace.asked
    yield event("trace", presenting.trace_row(prepared.trace))
    try:
        async for chunk in served.chat(prepared.body(), key=asked.key, parent=asked.run):
            if text := answer.take(chunk):
                yield event("delta", {"text": text})
    except ServedAway as error:
        yield event("error", served.away(error).body())
        return
    except ServedRefused as error:
        yield event("error", served.refused(error).body())
        return
    result = await sync_to_async(_finished)(prepared, answer)
    yield event("done", {**result, **extra})


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    text = json.dumps(data, ensure_ascii=False, default=str)
    return f"event: {name}\ndata: {text}\n\n".encode()


def _finished(prepared: Prepared, answer: Answer) -> dict[str, Any]:
    close_old_connections()  # the request's own connection may have gone while it streamed
    return answering.finish(prepared, answer, clock.now())


def _trial(wanted: Mapping[str, Any]) -> Any:  # noqa: ANN401 - settings or nothing
    if "settings" not in wanted:
        return None
    trial = SettingsSerializer(data=dict(wanted["settings"]))
    trial.is_valid(raise_exception=True)
    return trial.settings()


def _sent(request: Request) -> dict[str, Any]:
    return dict(request.data) if isinstance(request.data, Mapping) else {}
