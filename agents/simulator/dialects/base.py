"""What a dialect must do: put the tokens of one request into one API's JSON.

A dialect is one file: chat, completions, responses, messages. It knows nothing of time or
sockets; `generation` tells it what came and sends what it returns.
"""

import json
from dataclasses import dataclass
from typing import Protocol

from agents.simulator.answers import Answer
from agents.simulator.asks import Ask
from agents.simulator.errors import ApiError
from agents.simulator.runs import Outcome, Run

FINGERPRINT = "hearth-simulator"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What all dialects know of an answer from its start."""

    ask: Ask
    model: str
    request_id: str
    created_at: int
    """Unix time, whole seconds."""
    with_details: bool
    """Whether usage tells cached tokens."""


@dataclass(eq=False)
class Choice:
    """One sequence of the answer."""

    index: int
    run: Run
    answer: Answer
    sent_tokens: int = 0
    is_begun: bool = False
    """Whether its first events were sent."""
    is_closed: bool = False
    """Whether its outcome was sent."""

    @property
    def text(self) -> str:
        return self.answer.text(0, self.run.produced)

    @property
    def finish_reason(self) -> Outcome | None:
        return self.run.outcome


class Dialect(Protocol):
    """Writes one answer; a new one for each request."""

    def first(self, choice: Choice) -> bytes:
        """Return the events before the first text of `choice`."""

    def delta(self, choice: Choice, text: str) -> bytes:
        """Return the event for `text`, next in `choice`; its run may have its outcome now."""

    def last(self, choices: list[Choice]) -> bytes:
        """Return the events after all choices ended."""

    def failed(self, error: ApiError) -> bytes:
        """Return the events for an engine that died in the middle."""

    def whole(self, choices: list[Choice]) -> bytes:
        """Return the body of an answer that is not streamed."""


def event(document: object, name: str = "") -> bytes:
    """Return one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {compact(document)}\n\n".encode()


def compact(document: object) -> str:
    """Return `document` as JSON without spaces, as vLLM writes it."""
    return json.dumps(document, separators=(",", ":"))


def usage(reply: Reply, choices: list[Choice], *, details: bool = True) -> dict[str, object]:
    """Return OpenAI's usage; a prompt counts once however many choices it has."""
    prompts = [choices[at].run for at in range(0, len(choices), reply.ask.choices_per_prompt)]
    prompt_tokens = sum(run.prompt_tokens for run in prompts)
    output_tokens = sum(choice.run.produced for choice in choices)
    document: dict[str, object] = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "completion_tokens": output_tokens,
    }
    if details:
        cached = {"cached_tokens": sum(run.cached_tokens for run in prompts)}
        document["prompt_tokens_details"] = cached if reply.with_details else None
    return document
