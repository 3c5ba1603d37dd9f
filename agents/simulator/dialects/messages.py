"""`/v1/messages`: Anthropic's events and bodies, as vLLM 0.32 writes them."""

from agents.simulator.dialects.base import Choice, Reply, compact, event
from agents.simulator.errors import ApiError
from agents.simulator.runs import Outcome

_STOP_REASONS = {Outcome.STOP: "end_turn", Outcome.LENGTH: "max_tokens"}


class MessageDialect:
    """Writes one Anthropic message; always of one choice."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def first(self, choice: Choice) -> bytes:
        message = self._message(choice, [], output_tokens=0, ended=False)
        block = {"type": "text", "text": ""}
        return _event("message_start", message=message) + _event(
            "content_block_start", index=0, content_block=block
        )

    def delta(self, choice: Choice, text: str) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return _event("content_block_delta", index=0, delta=delta)

    def last(self, choices: list[Choice]) -> bytes:
        ending = _ending(choices[0])
        figures = self._usage(choices[0], choices[0].run.produced)
        return (
            _event("content_block_stop", index=0)
            + _event("message_delta", delta=ending, usage=figures)
            + _event("message_stop")
        )

    def failed(self, error: ApiError) -> bytes:
        fault = {"type": "internal_error", "message": error.message}
        return _event("error", error=fault)

    def whole(self, choices: list[Choice]) -> bytes:
        choice = choices[0]
        content = [{"type": "text", "text": choice.text}]
        message = self._message(choice, content, output_tokens=choice.run.produced, ended=True)
        return compact(message).encode()

    def _message(
        self, choice: Choice, content: list[dict[str, str]], *, output_tokens: int, ended: bool
    ) -> dict[str, object]:
        ending = _ending(choice) if ended else {"stop_reason": None, "stop_sequence": None}
        return {
            "id": f"msg_{self._reply.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._reply.model,
            "content": content,
            **ending,
            "usage": self._usage(choice, output_tokens),
        }

    def _usage(self, choice: Choice, output_tokens: int) -> dict[str, int]:
        figures = {"input_tokens": choice.run.prompt_tokens, "output_tokens": output_tokens}
        if self._reply.with_details:
            figures["cache_read_input_tokens"] = choice.run.cached_tokens
        return figures


def _ending(choice: Choice) -> dict[str, str | None]:
    stop = choice.answer.stop if choice.finish_reason is Outcome.STOP else None
    reason = "stop_sequence" if stop else _STOP_REASONS.get(choice.finish_reason or Outcome.STOP)
    return {"stop_reason": reason or "end_turn", "stop_sequence": stop}


def _event(kind: str, **fields: object) -> bytes:
    return event({"type": kind, **fields}, kind)
