"""`/v1/completions`: chunks and bodies as vLLM 0.32 writes them."""

from agents.simulator.dialects.base import DONE, FINGERPRINT, Choice, Reply, compact, event, usage
from agents.simulator.errors import ApiError


class CompletionDialect:
    """Writes one text completion."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._head = (
            f'data: {{"id":"cmpl-{reply.request_id}","object":"text_completion",'
            f'"created":{reply.created_at},"model":{compact(reply.model)},'
            f'"system_fingerprint":"{FINGERPRINT}","choices":['
        )

    def first(self, choice: Choice) -> bytes:
        return b""

    def delta(self, choice: Choice, text: str) -> bytes:
        document = compact(_choice(choice, text))
        tail = ""
        if self._reply.ask.continuous_usage:
            tail = f',"usage":{compact(usage(self._reply, [choice], details=False))}'
        return f"{self._head}{document}]{tail}}}\n\n".encode()

    def last(self, choices: list[Choice]) -> bytes:
        if not self._reply.ask.include_usage:
            return DONE
        figures = compact(usage(self._reply, choices))
        return f'{self._head}],"usage":{figures}}}\n\n'.encode() + DONE

    def failed(self, error: ApiError) -> bytes:
        return event(error.document()) + DONE

    def whole(self, choices: list[Choice]) -> bytes:
        return compact(
            {
                "id": f"cmpl-{self._reply.request_id}",
                "object": "text_completion",
                "created": self._reply.created_at,
                "model": self._reply.model,
                "system_fingerprint": FINGERPRINT,
                "choices": [_choice(choice, choice.text) for choice in choices],
                "usage": usage(self._reply, choices),
            }
        ).encode()


def _choice(choice: Choice, text: str) -> dict[str, object]:
    return {
        "index": choice.index,
        "text": text,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.answer.stop if choice.finish_reason else None,
    }
