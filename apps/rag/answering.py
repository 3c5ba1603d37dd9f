"""Answer a question from its passages: fit the prompt, read the stream, check the citations.

`prepare` decides what is sent (synchronous: rows, one call of the tokenizer), `Answer` takes the
engine's chunks one by one, `finish` checks and writes down. The callers in `api_ask` differ only in
how they read the stream.
"""

import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings

from agents.wire import EngineSpec
from apps.accounts.models import User
from apps.deployments.models import Revision
from apps.lib.problems import Problem
from apps.lib.sealing import Unsealable, seal, unseal
from apps.rag import citations, prefix, presenting, prompt, runs, served
from apps.rag.models import Chunk, Conversation, KnowledgeBase
from apps.rag.prompt import Passage, Turn
from apps.rag.retrieval import Trace
from apps.rag.served import ServedAway, ServedRefused
from apps.traffic.routing import block_tokens

ANSWER_TOKENS = 300
"""Most tokens of an answer unless it is asked for another number."""
LEAST_ANSWER_TOKENS = 32
_CHARACTERS_PER_TOKEN = 3.0
"""Where the engine counts no tokens: cautious."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What must be known of the deployment that answers."""

    deployment: str
    context_tokens: int
    block_tokens: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question in a conversation."""

    text: str
    user: User
    deployment: str
    conversation: UUID | None = None
    answer_tokens: int = ANSWER_TOKENS
    temperature: float = 0.0
    """What the passages say leaves nothing to chance."""


@dataclass(kw_only=True)
class Prepared:
    """A prompt that fits, and all that is needed to finish."""

    question: Question
    trace: Trace
    model: Model
    turn: Turn
    before: prompt.Conversation
    is_first: bool
    passages: list[Passage]
    chunks: dict[int, Chunk]
    tokens: list[int] | None
    answer_tokens: int
    conversation: Conversation | None

    def body(self) -> dict[str, Any]:
        """Return the request for the gateway."""
        return {
            "model": self.model.deployment,
            "messages": self.turn.messages,
            "max_tokens": self.answer_tokens,
            "temperature": self.question.temperature,
        }


@dataclass(kw_only=True)
class Answer:
    """What came of the engine so far."""

    asked_at: float = field(default_factory=time.perf_counter)
    first_at: float | None = None
    parts: list[str] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    finish_reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def take(self, chunk: Mapping[str, Any]) -> str:
        """Take one value of `served.chat`; return the text that it adds."""
        if "headers" in chunk:
            self.headers = dict(chunk["headers"])
            return ""
        if error := chunk.get("error"):
            raise ServedAway(str(error.get("message", error) if isinstance(error, dict) else error))
        self.usage = chunk.get("usage") or self.usage
        text = ""
        for choice in chunk.get("choices") or ():
            text += (choice.get("delta") or {}).get("content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if text:
            self.first_at = self.first_at or time.perf_counter()
            self.parts.append(text)
        return text

    @property
    def text(self) -> str:
        return "".join(self.parts)


def model_of(deployment: str) -> Model:
    """Return what is known of a chat deployment. Raises Problem 400."""
    found = Revision.objects.filter(deployment__name=deployment).order_by("-number").first()
    if found is None or found.task != "chat":
        told = f"{deployment} is a {found.task} deployment" if found else f"no {deployment}"
        raise Problem(
            400,
            "unknown_deployment",
            f"deployment: there is {told}; name a chat deployment.",
            extra={"field": "deployment"},
        )
    spec = msgspec.convert(found.spec, EngineSpec)
    return Model(
        deployment=deployment,
        context_tokens=spec.settings.max_model_len or 4096,
        block_tokens=block_tokens(spec),
    )


def prepare(question: Question, trace: Trace) -> Prepared:
    """Return the next prompt of the conversation, fitted into the model's context.

    What does not fit goes in this order: the conversation so far (it starts anew), the last
    passages, the length of the answer. Raises Problem 400, 404, 422, 503.
    """
    begun = time.perf_counter()
    model = model_of(question.deployment)
    kept, before = _conversation(question, trace.asked.base)
    fitted = _fitted(question, trace, model, before)
    fitted.conversation = kept
    trace.timings["prompt"] = time.perf_counter() - begun
    return fitted


def _fitted(
    question: Question, trace: Trace, model: Model, before: prompt.Conversation
) -> Prepared:
    base = trace.asked.base
    mark = mark_of(base)
    chunks = {hit.chunk.pk: hit.chunk for hit in trace.hits}
    passages, known = _worth_sending(trace, before)
    is_first = not before.messages
    while True:
        turn = prompt.next_turn(
            before,
            system=prompt.instructions(base.name, base.description, mark),
            passages=passages,
            question=question.text,
            mark=mark,
            known=known,
        )
        tokens = _tokens(model, turn.messages, key=trace.asked.key)
        size = len(tokens) if tokens is not None else _estimated(turn.messages)
        room = model.context_tokens - size
        if room >= question.answer_tokens or (room >= LEAST_ANSWER_TOKENS and not passages[1:]):
            break
        if before.messages:
            before = prompt.Conversation()
            passages, known = _worth_sending(trace, before)
            trace.notices.append("The conversation outgrew the model's context and starts anew.")
        elif len(passages) > 1:
            dropped = passages.pop()
            trace.notices.append(f"{dropped.document} was left out: the context is full.")
        else:
            raise Problem(
                422,
                "context_full",
                f"question: the prompt has {size} tokens, {model.deployment} takes "
                f"{model.context_tokens}; ask shorter, or lower chunk_characters.",
                extra={"field": "question"},
            )
    return Prepared(
        question=question,
        trace=trace,
        model=model,
        turn=turn,
        before=before,
        is_first=is_first,
        passages=passages,
        chunks=chunks,
        tokens=tokens,
        answer_tokens=min(question.answer_tokens, room),
        conversation=None,
    )


def _worth_sending(trace: Trace, before: prompt.Conversation) -> tuple[list[Passage], list[int]]:
    """Return the passages to send after `before`, and known chunks to name; says what is left."""
    chunks = {hit.chunk.pk: hit.chunk for hit in trace.hits}
    new, known = prompt.worth_sending(before, list(chunks), list(trace.left_out))
    left = sum(one not in new and one not in known for one in chunks)
    if left:
        trace.notices.append(
            f"{left} new passages were not sent: the conversation holds {len(known)} as good."
        )
    return [passage_of(chunks[one]) for one in new], known


def finish(prepared: Prepared, answer: Answer, now: datetime) -> dict[str, Any]:
    """Check the citations, keep the conversation and the figures; return the whole result."""
    trace = prepared.trace
    ended = time.perf_counter()
    first_at = answer.first_at or ended
    timings = dict(trace.timings)
    timings["ttft"] = first_at - answer.asked_at
    timings["decode"] = ended - first_at
    timings["total"] = trace.timings["total"] + trace.timings["prompt"] + ended - answer.asked_at
    text = answer.text
    after = prompt.answered(prepared.turn, text)
    view = _prefix_view(prepared)
    after.tokens = _tokens(prepared.model, after.messages, key=trace.asked.key, ask=False) or []
    kept = _keep(prepared, after, now)
    checked = citations.check(text, prepared.turn.numbers.values())
    usage = _usage(answer)
    result = {
        "run": trace.asked.run,
        "conversation": str(kept.uid),
        "answer": text,
        "finish_reason": answer.finish_reason,
        "citations": _citation_rows(prepared, checked),
        "unknown_citations": list(checked.unknown),
        "abstained": checked.abstained,
        "timings": {f"{name}_seconds": value for name, value in timings.items()},
        "usage": usage,
        "prefix": {**asdict(view), "reported_tokens": usage["cached_tokens"]} if view else None,
        "replica": answer.headers.get("x-hearth-replica", ""),
        "route": answer.headers.get("x-hearth-route", ""),
        "hits": [presenting.hit_row(hit) for hit in trace.hits],
        "notices": trace.notices,
        "profile": trace.asked.profile,
        "build": trace.build.number,
    }
    runs.record(
        trace, kind="ask", user=prepared.question.user, usage=usage, timings=timings, now=now
    )
    return result


def _conversation(
    question: Question, base: KnowledgeBase
) -> tuple[Conversation | None, prompt.Conversation]:
    if question.conversation is None:
        return None, prompt.Conversation()
    kept = Conversation.objects.filter(
        pk=question.conversation, knowledge_base=base, user=question.user
    ).first()
    if kept is None:
        raise Problem(404, "conversation_unknown", "This conversation is over; begin another one.")
    if kept.deployment != question.deployment:
        return kept, prompt.Conversation()
    try:
        held = json.loads(unseal(kept.sealed))
    except Unsealable:
        return kept, prompt.Conversation()
    return kept, prompt.Conversation(
        messages=held["messages"],
        numbers={int(chunk): number for chunk, number in held["numbers"].items()},
        tokens=held["tokens"],
    )


def _keep(prepared: Prepared, after: prompt.Conversation, now: datetime) -> Conversation:
    kept = prepared.conversation or Conversation(
        knowledge_base=prepared.trace.asked.base, user=prepared.question.user
    )
    kept.deployment = prepared.model.deployment
    kept.sealed = seal(json.dumps(asdict(after)))
    kept.turns += 1
    kept.changed_at = now
    kept.save()
    return kept


def passage_of(chunk: Chunk) -> Passage:
    """Return the chunk as a prompt shows it."""
    place = f"page {chunk.page}" if chunk.page is not None else chunk.heading
    return Passage(chunk=chunk.pk, document=chunk.document.name, place=place, text=chunk.text)


def mark_of(base: KnowledgeBase) -> str:
    """Return the word around passages: always the same here, and none that a document can know."""
    secret: str = settings.SECRET_KEY
    digest = hmac.digest(secret.encode(), b"hearth.rag.mark:" + base.uid.bytes, "sha256")
    return prompt.mark_of(digest)


def _tokens(
    model: Model, messages: Sequence[Mapping[str, str]], *, key: str, ask: bool = True
) -> list[int] | None:
    try:
        return served.token_ids(model.deployment, messages, key=key, ask=ask)
    except (ServedAway, ServedRefused, KeyError):
        return None  # an engine without /tokenize: sizes are estimated, the view is left out


def _estimated(messages: Sequence[Mapping[str, str]]) -> int:
    return int(sum(len(message["content"]) for message in messages) / _CHARACTERS_PER_TOKEN)


def _prefix_view(prepared: Prepared) -> prefix.View | None:
    """Return the segments of the prompt, found by leaving out what follows each of them."""
    whole, messages = prepared.tokens, prepared.turn.messages
    if whole is None:
        return None
    model, key = prepared.model, prepared.trace.asked.key
    last = messages[-1]["content"]
    asked = last.rindex("Question: ") + len("Question: ")
    shorter = [
        ("instructions", messages[:1], False),
        ("history", messages[:-1], False),
        ("new passages", [*messages[:-1], {"role": "user", "content": last[:asked]}], True),
    ]
    ends, at = [], 0
    for name, part, ask in shorter:
        if name == "history" and len(part) == 1:
            continue
        tokens = _tokens(model, part, key=key, ask=ask) or []
        at = max(at, prefix.common(whole, tokens))
        ends.append((name, at))
    ends.append(("question", len(whole)))
    return prefix.view(
        whole,
        ends=ends,
        before=prepared.before.tokens,
        block_tokens=model.block_tokens,
        first=prepared.is_first,
    )


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    details = usage.get("prompt_tokens_details") or {}
    return {
        "prompt_tokens": usage.get("prompt_tokens"),
        "cached_tokens": details.get("cached_tokens"),
        "output_tokens": usage.get("completion_tokens"),
    }


def _citation_rows(prepared: Prepared, checked: citations.Checked) -> list[dict[str, Any]]:
    """Return the passages of this turn by number, and older ones that the answer cites."""
    numbers = prepared.turn.numbers
    wanted = {*prepared.turn.sent, *prepared.turn.again}
    wanted |= {chunk for chunk, number in numbers.items() if number in checked.cited}
    known = dict(prepared.chunks)
    missing = [chunk for chunk in wanted if chunk not in known]
    known |= {
        row.pk: row
        for row in Chunk.objects.filter(
            pk__in=missing,
            document__knowledge_base=prepared.trace.asked.base,
            document__deleted_at__isnull=True,
        ).select_related("document")
    }
    rows = [
        {
            "number": numbers[chunk],
            "cited": numbers[chunk] in checked.cited,
            **presenting.chunk_row(known[chunk]),
        }
        for chunk in wanted
        if chunk in known
    ]
    return sorted(rows, key=lambda row: row["number"])
