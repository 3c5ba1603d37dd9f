"""One generation request from its arrival to its last byte.

It turns an `Ask` into runs, listens to the engine, and writes what came in the request's dialect.
A reader that stalls gets no chunks until it reads again, then one chunk with all that came
meanwhile; a client that leaves ends its runs. Called by `api`.
"""

import os
import signal
import time
import uuid
from collections.abc import Callable

from agents.simulator import tokens
from agents.simulator.asks import Ask
from agents.simulator.dialects.base import Choice, Dialect, Reply
from agents.simulator.errors import ApiError, engine_died
from agents.simulator.faults import Fault, FaultKind
from agents.simulator.http1 import Exchange
from agents.simulator.replica import Replica
from agents.simulator.runs import Run


def start(
    replica: Replica, exchange: Exchange, ask: Ask, dialect: Callable[[Reply], Dialect]
) -> None:
    """Begin to answer `ask`. Raises ApiError before anything was sent."""
    model = replica.check_model(ask.model)
    fault = replica.admit(exchange)
    if fault.kind is FaultKind.ERROR_AFTER_REQUESTS:
        raise ApiError(500, "a simulated fault: error_after_requests")
    reply = _reply(replica, exchange, ask, model)
    generation = Generation(replica, exchange, dialect(reply), fault)
    generation.begin(ask)


def _reply(replica: Replica, exchange: Exchange, ask: Ask, model: str) -> Reply:
    request_id = exchange.headers.get("x-request-id") or uuid.uuid4().hex
    if replica.options.request_id_headers:
        exchange.extra_headers["x-request-id"] = request_id
    return Reply(
        ask=ask,
        model=model,
        request_id=request_id,
        created_at=int(time.time()),
        with_details=replica.options.prompt_tokens_details,
    )


class Generation:
    """Listens to the runs of one request."""

    def __init__(
        self, replica: Replica, exchange: Exchange, dialect: Dialect, fault: Fault
    ) -> None:
        self._replica = replica
        self._exchange = exchange
        self._dialect = dialect
        self._fault = fault
        self._is_stream = False
        self._choices: dict[Run, Choice] = {}

    def begin(self, ask: Ask) -> None:
        self._is_stream = ask.is_stream
        for prompt in ask.prompts:
            for variation in range(ask.choices_per_prompt):
                choice = self._choice(ask, prompt, variation)
                self._choices[choice.run] = choice
        self._exchange.on_gone = self._abandon
        self._exchange.on_flowing = self._flush_all
        if self._is_stream:
            self._exchange.start_stream("text/event-stream; charset=utf-8")
        if self._fault.kind is FaultKind.HANG_AFTER_REQUESTS:
            return
        for run in list(self._choices):
            self._replica.engine.submit(run, self)

    def _choice(self, ask: Ask, prompt: bytes, variation: int) -> Choice:
        options = self._replica.options
        answer = self._replica.author.write(prompt, ask.length, variation)
        blocks: tuple[int, ...] = ()
        if options.prefix_caching:
            blocks = tokens.block_hashes(
                prompt + answer.data,
                block_tokens=options.limits.block_tokens,
                salt=ask.cache_salt,
            )
        run = Run(
            prompt_tokens=tokens.count(prompt),
            output_tokens=answer.token_count,
            blocks=blocks,
            ending=answer.ending,
        )
        if self._replica.teller is not None:
            session = self._exchange.headers.get("x-session-id", "")
            self._replica.teller.describe(blocks, prompt + answer.data, ask.cache_salt, session)
        return Choice(len(self._choices), run, answer)

    # --- The engine's calls -------------------------------------------------------------------

    def on_token(self, run: Run) -> None:
        if self._is_stream:
            self._flush(self._choices[run])
        if self._fault.kind is not FaultKind.NONE:
            self._act_out()
            return
        self._try_to_complete()

    def on_death(self, run: Run) -> None:
        # One call for each run; the first one answers for all.
        if not self._choices:
            return
        self._choices = {}
        self._exchange.on_gone = _ignore
        error = engine_died()
        if self._is_stream:
            self._exchange.write(self._dialect.failed(error))
            self._exchange.end()
        else:
            self._exchange.send(error.status, error.body())

    def _act_out(self) -> None:
        """Break in the middle of this request, as its fault says."""
        kind, self._fault = self._fault.kind, Fault()
        if kind is FaultKind.KILL_AFTER_REQUESTS:
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind is FaultKind.CUT_AFTER_REQUESTS:
            self._abandon()
            self._exchange.cut()
        elif kind is FaultKind.CRASH_AFTER_REQUESTS:
            self._replica.engine.die()
            self._replica.on_crash()

    # --- The client's side --------------------------------------------------------------------

    def _abandon(self) -> None:
        for run in self._choices:
            self._replica.engine.abort(run)
        self._choices = {}

    def _flush_all(self) -> None:
        for choice in self._choices.values():
            self._flush(choice)
        self._try_to_complete()

    def _flush(self, choice: Choice) -> None:
        """Write what `choice` has beyond what was sent, unless the reader stalls."""
        run = choice.run
        has_news = choice.sent_tokens < run.produced or run.outcome is not None
        if choice.is_closed or not has_news or self._exchange.is_clogged:
            return
        text = choice.answer.text(choice.sent_tokens, run.produced)
        head = b"" if choice.is_begun else self._dialect.first(choice)
        choice.is_begun = True
        choice.sent_tokens = run.produced
        choice.is_closed = run.outcome is not None
        self._exchange.write(head + self._dialect.delta(choice, text))

    def _try_to_complete(self) -> None:
        choices = list(self._choices.values())
        if not choices or any(choice.run.outcome is None for choice in choices):
            return
        if not self._is_stream:
            self._finish()
            self._exchange.send(200, self._dialect.whole(choices))
        elif all(choice.is_closed for choice in choices):
            self._finish()
            self._exchange.write(self._dialect.last(choices))
            self._exchange.end()

    def _finish(self) -> None:
        self._choices = {}
        self._exchange.on_gone = self._exchange.on_flowing = _ignore


def _ignore() -> None:
    """The listener of an answer that is complete."""
