"""`/v1/chat/completions`: chunks and bodies as vLLM 0.32 writes them."""

from agents.simulator.dialects.base import DONE, FINGERPRINT, Choice, Reply, compact, event, usage
from agents.simulator.errors import ApiError


class ChatDialect:
    """Writes one chat completion."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        # Everything before the choices is the same in each chunk; made once.
        self._head = (
            f'data: {{"id":"chatcmpl-{reply.request_id}","object":"chat.completion.chunk",'
            f'"created":{reply.created_at},"model":{compact(reply.model)},'
            f'"system_fingerprint":"{FINGERPRINT}","choices":['
        )

    def first(self, choice: Choice) -> bytes:
        delta = '{"role":"assistant","content":""}'
        return self._chunk(choice, f'"delta":{delta},"logprobs":null,"finish_reason":null')

    def delta(self, choice: Choice, text: str) -> bytes:
        ending = '"finish_reason":null'
        if choice.finish_reason is not None:
            stop = compact(choice.answer.stop)
            ending = f'"finish_reason":"{choice.finish_reason}","stop_reason":{stop}'
        delta = f'{{"content":{compact(text)}}}'
        return self._chunk(choice, f'"delta":{delta},"logprobs":null,{ending}')

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
                "id": f"chatcmpl-{self._reply.request_id}",
                "object": "chat.completion",
                "created": self._reply.created_at,
                "model": self._reply.model,
                "system_fingerprint": FINGERPRINT,
                "choices": [_choice(choice) for choice in choices],
                "usage": usage(self._reply, choices),
            }
        ).encode()

    def _chunk(self, choice: Choice, body: str) -> bytes:
        tail = ""
        if self._reply.ask.continuous_usage:
            tail = f',"usage":{compact(usage(self._reply, [choice], details=False))}'
        return f'{self._head}{{"index":{choice.index},{body}}}]{tail}}}\n\n'.encode()


def _choice(choice: Choice) -> dict[str, object]:
    message: dict[str, object] = {
        "role": "assistant",
        "content": choice.text,
        "refusal": None,
        "tool_calls": [],
        "reasoning": None,
    }
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.answer.stop,
    }
