"""How soon a step of demand becomes a decision, and the decision an order at the agent.

A whole Hearth with the simulator on free ports. Each step is a deployment of its own that has one
replica and gets eight streams at once through the gateway; the steps fall at even distances within
the controller's rhythm of two seconds. Three moments are taken, all on this machine's clock: the
first stream is sent; the row of the decision can be read by others (the database is looked at every
few milliseconds, because the row's own time is when its pass began); the agent's journal says that
it starts the first of the ordered replicas. Called by `bench.scaling --case live`.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from apps.deployments.reconcile.scaling.values import TICK_SECONDS
from bench.main.figures import Result, median
from tests.running import Hearth, hearth, wait_until

STEPS = 9
STREAMS = 8
TARGET_CONCURRENCY = 2
DECISION_MS = 2500.0
ORDER_MS = 300.0
CATALOG = "smollm2-135m-instruct"
_READY_SECONDS = 60.0
_DEADLINE_SECONDS = 15.0
_LOOK_SECONDS = 0.005


class Step(NamedTuple):
    """One step of demand: seconds from one moment to the next."""

    decided: float
    ordered: float
    reason: str


def measure(folder: Path, steps: int = STEPS) -> Result:
    """Make `steps` steps of demand on a Hearth in `folder`."""
    result = Result(part="live", question="how soon is a step of demand decided and ordered?")
    with hearth(folder / "h", HEARTH_RUNTIME="process", HEARTH_ENGINE="simulator") as instance:
        key = instance.key()
        found = [_step(instance, key, n, n * TICK_SECONDS / steps) for n in range(steps)]
    decided, ordered = ([1000 * one[n] for one in found] for n in (0, 1))
    result.add(f"step to decision recorded, median of {steps}", median(decided), "ms", DECISION_MS)
    result.add("step to decision recorded, worst", max(decided), "ms", DECISION_MS)
    result.add(
        f"decision to order at the agent, median of {steps}", median(ordered), "ms", ORDER_MS
    )
    result.add("decision to order at the agent, worst", max(ordered), "ms", ORDER_MS)
    rows = [(f"{1000 * s.decided:.0f}", f"{1000 * s.ordered:.0f}", s.reason) for s in found]
    result.table = [("step to decision ms", "to order ms", "decision"), *rows]
    return result


def _step(instance: Hearth, key: str, number: int, offset_seconds: float) -> Step:
    """Deploy, wait for a moment of the rhythm, step, and delete again."""
    name = f"step-{number}"
    scaling = {"max_replicas": 3, "target_concurrency": TARGET_CONCURRENCY}
    instance.deploy(CATALOG, name=name, scaling=scaling)
    instance.wait_for(name, "ready", _READY_SECONDS)
    step = asyncio.run(_stepped(instance, key, name, offset_seconds))
    instance.api("DELETE", f"deployments/{name}/")
    wait_until(
        lambda: instance.api("GET", f"deployments/{name}/").status_code == 404,
        _READY_SECONDS,
        f"{name} to be gone",
    )
    return step


async def _stepped(instance: Hearth, key: str, name: str, offset_seconds: float) -> Step:
    known = {move["replica_id"] for move in _journal(instance)}
    with closing(_database(instance)) as database:
        # The rhythm's phase drifts: from whatever decision was last, the steps spread over it.
        await asyncio.sleep(2 * TICK_SECONDS + offset_seconds)
        began = time.time()
        async with _streams(instance, key, name):
            reason = await _until(lambda: _decision(database, name), "a decision")
            decided = time.time()
            at = await _until(lambda: _order(instance, known), "an order at the agent")
    return Step(decided - began, at - decided, reason)


@asynccontextmanager
async def _streams(instance: Hearth, key: str, name: str) -> AsyncIterator[None]:
    """Open the streams without waiting for their answers, which may queue."""
    body = {"model": name, "stream": True, "max_tokens": 2000, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "a long story"}]
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(
            base_url=instance.gateway, headers=headers, timeout=60, verify=False
        ) as client,
        AsyncExitStack() as held,
    ):

        async def hold() -> None:
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for _ in answer.aiter_raw():
                    pass

        for task in [asyncio.create_task(hold()) for _ in range(STREAMS)]:
            held.callback(task.cancel)
        yield


async def _until[T](look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {_DEADLINE_SECONDS:.0f} s")
        await asyncio.sleep(_LOOK_SECONDS)
    return found


def _database(instance: Hearth) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{instance.data / 'hearth.sqlite3'}?mode=ro", uri=True)


def _decision(database: sqlite3.Connection, name: str) -> str | None:
    """Return the reason of the first decision for more replicas, once it is committed."""
    row = database.execute(
        "SELECT d.reason FROM deployments_decision d JOIN deployments_deployment e"
        " ON e.id = d.deployment_id WHERE e.name = ? AND d.kind = 'scaling'"
        " AND json_extract(d.inputs, '$.wanted') > json_extract(d.inputs, '$.was')",
        (name,),
    ).fetchone()
    return None if row is None else str(row[0])


def _order(instance: Hearth, known: set[str]) -> float | None:
    """Return when (Unix time) the agent began the first replica that is not `known`."""
    moves = (m for m in _journal(instance) if m["replica_id"] not in known)
    return min((float(m["at"]) for m in moves if m["move"] == "starting"), default=None)


def _journal(instance: Hearth) -> list[dict[str, Any]]:
    lines = (instance.data / "agent" / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
