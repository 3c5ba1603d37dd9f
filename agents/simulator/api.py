"""The routes of vLLM 0.32's HTTP API, as far as Hearth uses them.

It decides which path does what, who may ask (the API key guards /v1, /v2 and /inference only, as
in vLLM), and turns errors into answers. Generation and pooling have modules of their own.
"""

import json
from collections.abc import Callable

from agents.simulator import asks, generation, pooling, tokens
from agents.simulator.asks import Body
from agents.simulator.dialects.base import Dialect, Reply
from agents.simulator.dialects.chat import ChatDialect
from agents.simulator.dialects.completions import CompletionDialect
from agents.simulator.dialects.messages import MessageDialect
from agents.simulator.dialects.responses import ResponseDialect
from agents.simulator.engine import EngineDead
from agents.simulator.errors import ApiError, engine_died
from agents.simulator.http1 import Exchange
from agents.simulator.replica import Replica
from agents.simulator.sleeping import dev_routes

VERSION = "0.32.0+hearth-simulator"
_GUARDED = ("/v1", "/v2", "/inference")

type Route = Callable[[Exchange], None]


class Api:
    """Answers the exchanges of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._routes: dict[str, dict[str, Route]] = {}
        self._add_common()
        if replica.options.generates:
            self._add_generation()
        else:
            self._add_pooling()
        if replica.options.dev_mode:
            self._routes.update(dev_routes(replica))

    def handle(self, exchange: Exchange) -> None:
        """Answer `exchange`, now or when its tokens come."""
        try:
            self._check_key(exchange)
            self._route(exchange)(exchange)
        except ApiError as error:
            exchange.send(error.status, error.body())
        except EngineDead:
            died = engine_died()
            exchange.send(died.status, died.body())

    def _check_key(self, exchange: Exchange) -> None:
        key = self._replica.options.api_key
        if not key or not exchange.path.startswith(_GUARDED):
            return
        if exchange.headers.get("authorization") != f"Bearer {key}":
            raise ApiError(401, "Unauthorized")

    def _route(self, exchange: Exchange) -> Route:
        methods = self._routes.get(exchange.path)
        if methods is None:
            raise ApiError(404, "Not Found")
        method = "GET" if exchange.method == "HEAD" else exchange.method
        if method not in methods:
            exchange.extra_headers["allow"] = ", ".join(methods)
            raise ApiError(405, "Method Not Allowed")
        return methods[method]

    # --- Tables -------------------------------------------------------------------------------

    def _add_common(self) -> None:
        self._routes |= {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._with_body(self._tokenize)},
            "/detokenize": {"POST": self._with_body(self._detokenize)},
        }

    def _add_generation(self) -> None:
        longest = self._replica.options.max_model_len
        self._routes |= {
            "/v1/chat/completions": {
                "POST": self._generates(lambda body: asks.chat(body, longest), ChatDialect)
            },
            "/v1/completions": {
                "POST": self._generates(
                    lambda body: asks.completion(body, longest), CompletionDialect
                )
            },
            "/v1/responses": {
                "POST": self._generates(lambda body: asks.response(body, longest), ResponseDialect)
            },
            "/v1/messages": {
                "POST": self._generates(lambda body: asks.message(body, longest), MessageDialect)
            },
            "/v1/messages/count_tokens": {"POST": self._with_body(self._count_tokens)},
        }

    def _add_pooling(self) -> None:
        tables: dict[str, Callable[[Replica, Exchange, Body], None]] = {
            "/v1/embeddings": pooling.embeddings,
            "/v1/score": pooling.score,
            "/score": pooling.score,
            "/v1/rerank": pooling.rerank,
            "/v2/rerank": pooling.rerank,
            "/rerank": pooling.rerank,
        }
        for path, answer in tables.items():
            self._routes[path] = {"POST": self._pools(answer)}

    def _with_body(self, answer: Callable[[Exchange, Body], None]) -> Route:
        return lambda exchange: answer(exchange, asks.parse_body(exchange.body))

    def _generates(
        self,
        read: Callable[[Body], asks.Ask],
        dialect: Callable[[Reply], Dialect],
    ) -> Route:
        def route(exchange: Exchange) -> None:
            ask = read(asks.parse_body(exchange.body))
            generation.start(self._replica, exchange, ask, dialect)

        return route

    def _pools(self, answer: Callable[[Replica, Exchange, Body], None]) -> Route:
        return lambda exchange: answer(self._replica, exchange, asks.parse_body(exchange.body))

    # --- Answers ------------------------------------------------------------------------------

    def _health(self, exchange: Exchange) -> None:
        exchange.send(503 if self._replica.engine.is_dead else 200, b"")

    def _version(self, exchange: Exchange) -> None:
        send_json(exchange, {"version": VERSION})

    def _load(self, exchange: Exchange) -> None:
        send_json(exchange, {"server_load": self._replica.engine.in_flight})

    def _metrics(self, exchange: Exchange) -> None:
        text = self._replica.engine.metrics_text()
        exchange.send(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _models(self, exchange: Exchange) -> None:
        options = self._replica.options
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(self._replica.started_at),
                "owned_by": "hearth-simulator",
                "root": options.model,
                "parent": None,
                "max_model_len": options.max_model_len,
            }
            for name in options.served_names
        ]
        send_json(exchange, {"object": "list", "data": cards})

    def _tokenize(self, exchange: Exchange, body: Body) -> None:
        self._replica.check_model(asks.model_of(body))
        is_chat = "messages" in body
        ids = tokens.ids(asks.chat_prompt(body) if is_chat else asks.completion_prompts(body)[0])
        longest = self._replica.options.max_model_len
        reply = {"count": len(ids), "max_model_len": longest, "tokens": ids, "token_strs": None}
        send_json(exchange, reply)

    def _detokenize(self, exchange: Exchange, body: Body) -> None:
        self._replica.check_model(asks.model_of(body))
        given = body.get("tokens")
        if not isinstance(given, list) or not all(type(item) is int for item in given):
            raise ApiError(400, "tokens must be a list of whole numbers", param="tokens")
        try:
            send_json(exchange, {"prompt": tokens.text_of(given)})
        except ValueError as fault:
            raise ApiError(400, str(fault), param="tokens") from fault

    def _count_tokens(self, exchange: Exchange, body: Body) -> None:
        self._replica.check_model(asks.model_of(body))
        send_json(exchange, {"input_tokens": tokens.count(asks.message_prompt(body))})


def send_json(exchange: Exchange, document: object) -> None:
    exchange.send(200, json.dumps(document).encode())
