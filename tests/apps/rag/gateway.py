"""A gateway for tests: embeds by hashed words, answers by rule, can be told to fail."""

import base64
import json
import math
import re
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DIMENSION = 32
CLS, SEP = 101, 102


def vector_of(text: str, dimension: int = DIMENSION) -> list[float]:
    vector = [0.0] * dimension
    for word in re.findall(r"\w+", text.lower()) or ["nothing"]:
        mark = zlib.crc32(word.encode())
        vector[mark % dimension] += 1.0 if mark & 0x8000_0000 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    vector[0] += 1e-3
    return [value / length for value in vector]


def ids_of(text: str) -> list[int]:
    """Tokens as a tokenizer of the BERT kind makes them: words, with marks cut out first."""
    found = []
    for part in re.split(r"(\[SEP\])", text):
        if part == "[SEP]":
            found.append(SEP)
        else:
            found += [1000 + zlib.crc32(w.encode()) % 30000 for w in re.findall(r"\w+|\S", part)]
    return found


class Gateway:
    """Use as `with Gateway() as gateway`."""

    def __init__(self) -> None:
        self.dimension = DIMENSION
        self.answer = "Thirty days [1], and trains [9]."
        self.refuse: dict[str, tuple[int, str]] = {}
        """Path to (status, message)."""
        self.breaks = False
        """Let a plain chat break off in the middle."""
        self.calls: list[tuple[str, dict, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                outer.respond(self, json.loads(self.rfile.read(size)))

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def bodies(self, path: str) -> list[dict]:
        return [body for at, body, _ in self.calls if at == path]

    def __enter__(self) -> "Gateway":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, handler: BaseHTTPRequestHandler, body: dict) -> None:
        self.calls.append((handler.path, body, dict(handler.headers)))
        if handler.path in self.refuse:
            status, message = self.refuse[handler.path]
            return self._send(handler, {"error": {"message": message}}, status)
        answers = {
            "/v1/embeddings": self._embed,
            "/tokenize": self._tokenize,
            "/v1/rerank": self._rerank,
        }
        if handler.path == "/v1/chat/completions":
            return self._chat(handler, body) if body.get("stream") else self._chat_whole(handler)
        return self._send(handler, answers[handler.path](body))

    def _embed(self, body: dict) -> dict:
        vectors = [vector_of(text, self.dimension) for text in body["input"]]
        data = [
            {"index": at, "embedding": base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode()}
            for at, v in enumerate(vectors)
        ]
        tokens = sum(len(ids_of(text)) + 2 for text in body["input"])
        return {"data": data, "usage": {"prompt_tokens": tokens}}

    def _tokenize(self, body: dict) -> dict:
        if "messages" in body:
            text = "".join(f"<{m['role']}> {m['content']} </>" for m in body["messages"])
            text += " <assistant>" if body.get("add_generation_prompt") else ""
            tokens = ids_of(text)
            return {"tokens": tokens, "count": len(tokens)}
        tokens = [CLS, *ids_of(body["prompt"]), SEP]
        names = ["[CLS]", *re.findall(r"\w+|\S", body["prompt"]), "[SEP]"]
        return {"tokens": tokens, "token_strs": names, "count": len(tokens)}

    def _rerank(self, body: dict) -> dict:
        scores = [-len(text) for text in body["documents"]]
        return {"results": [{"index": at, "relevance_score": s} for at, s in enumerate(scores)]}

    def _chat(self, handler: BaseHTTPRequestHandler, body: dict) -> None:
        prompt = len(self._tokenize({"messages": body["messages"]})["tokens"])
        words = re.findall(r"\S+\s*", self.answer)
        chunks = [{"choices": [{"delta": {"content": word}}]} for word in words]
        chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": prompt, "completion_tokens": len(words)}
        usage["prompt_tokens_details"] = {"cached_tokens": 16}
        chunks.append({"choices": [], "usage": usage})
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("x-hearth-replica", "r1")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())

    def _chat_whole(self, handler: BaseHTTPRequestHandler) -> None:
        text = json.dumps({"model": "smol", "choices": [{"message": {"content": self.answer}}]})
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text[:9].encode() if self.breaks else text.encode())
        handler.close_connection = self.breaks

    def _send(self, handler: BaseHTTPRequestHandler, body: dict, status: int = 200) -> None:
        text = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)
