"""`/v1/responses`: OpenAI's response objects and events; nothing is stored."""

from agents.simulator.dialects.base import Choice, Reply, compact, event
from agents.simulator.errors import ApiError
from agents.simulator.runs import Outcome


class ResponseDialect:
    """Writes one response with one message; always of one choice."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._sequence = 0
        self._place = {"item_id": f"msg_{reply.request_id}", "output_index": 0, "content_index": 0}

    def first(self, choice: Choice) -> bytes:
        started = self._response("in_progress", [])
        item = {**self._item(""), "status": "in_progress", "content": []}
        return (
            self._event("response.created", response=started)
            + self._event("response.in_progress", response=started)
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place, part=_part(""))
        )

    def delta(self, choice: Choice, text: str) -> bytes:
        return self._event("response.output_text.delta", **self._place, delta=text, logprobs=[])

    def last(self, choices: list[Choice]) -> bytes:
        text = choices[0].text
        done = self._finished(choices[0])
        kind = f"response.{done['status']}"
        item = self._item(text)
        return (
            self._event("response.output_text.done", **self._place, text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place, part=_part(text))
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event(kind, response=done)
        )

    def failed(self, error: ApiError) -> bytes:
        fault = {"code": "server_error", "message": error.message}
        response = {**self._response("failed", []), "error": fault}
        return self._event("response.failed", response=response)

    def whole(self, choices: list[Choice]) -> bytes:
        return compact(self._finished(choices[0])).encode()

    def _finished(self, choice: Choice) -> dict[str, object]:
        is_cut = choice.finish_reason is not Outcome.STOP
        response = self._response(
            "incomplete" if is_cut else "completed", [self._item(choice.text)]
        )
        if is_cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        run = choice.run
        cached = run.cached_tokens if self._reply.with_details else 0
        response["usage"] = {
            "input_tokens": run.prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": run.produced,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": run.prompt_tokens + run.produced,
        }
        return response

    def _response(self, status: str, output: list[object]) -> dict[str, object]:
        return {
            "id": f"resp_{self._reply.request_id}",
            "object": "response",
            "created_at": self._reply.created_at,
            "status": status,
            "model": self._reply.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": None,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
        }

    def _item(self, text: str) -> dict[str, object]:
        return {
            "id": self._place["item_id"],
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [_part(text)],
        }

    def _event(self, kind: str, **fields: object) -> bytes:
        document = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event(document, kind)


def _part(text: str) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
