"""Whatever clients and engines do: one closed record per admitted request, and nothing leaks."""

import asyncio
import json
import os
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.settings import Deadlines, Limits
from tests.gateway.harness import CHAT, PATH, STREAM, Harness, gateway, key, model, table, until
from tests.gateway.upstream import (
    Asked,
    Upstream,
    answer_json,
    begin_stream,
    chat_chunk,
    cut,
    end_stream,
    running,
    send_event,
    whole_chat,
)

ENGINE = st.sampled_from(
    ["well", "well", "well", "error", "busy", "cut", "cut mid-stream", "error in stream",
     "no reason", "flood", "silent"]
)  # fmt: skip
CLIENT = st.sampled_from(
    ["reads", "reads", "reads", "leaves at once", "leaves after the head", "leaves later",
     "stalls", "never reads"]
)  # fmt: skip
MOVE = st.tuples(
    st.integers(0, 20),
    st.sampled_from(["draining", "asleep", "gone", "ready", "killed", "budget used up"]),
)
"""After so many milliseconds something happens to the first replica, or to the key."""
STALLED_SECONDS = 0.1
FLOOD_CHUNKS = 200
"""1.6 MB: more than all buffers between an engine and a client that does not read."""
REQUEST = st.tuples(CLIENT, st.booleans(), st.integers(0, 3))


def engine(moods: list[str], seed: int):
    """Return a script that goes through `moods`, with pauses."""
    chance = random.Random(seed)
    turns = iter(moods * 20)

    async def script(asked: Asked) -> None:
        mood = "well" if asked.path == "/health" else next(turns, "well")
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005]))
        if mood == "well":
            await whole_chat(asked)
        elif mood == "error":
            await answer_json(asked, {"error": "x"}, status=500)
        elif mood == "busy":
            await answer_json(asked, {"error": "x"}, status=503)
        elif mood == "silent":
            await asked.gone.wait()
        elif mood == "cut" or not asked.json.get("stream"):
            cut(asked)
        else:
            await _spoil(asked, mood)

    return script


async def _spoil(asked: Asked, mood: str) -> None:
    await begin_stream(asked)
    if mood == "flood":
        for _ in range(FLOOD_CHUNKS):
            await send_event(asked, chat_chunk("x" * 8192))
        await send_event(asked, chat_chunk("", "stop"))
        await send_event(asked, "[DONE]")
        await end_stream(asked)
        return
    await send_event(asked, chat_chunk("one"))
    if mood == "cut mid-stream":
        cut(asked)
        return
    if mood == "error in stream":
        await send_event(asked, {"error": {"message": "dead"}})
    await send_event(asked, "[DONE]")
    await end_stream(asked)


async def behave(gw: Harness, request: tuple[str, bool, int]) -> str | None:
    """Send one request and behave as told; return its id if the head of an answer came."""
    manner, is_stream, delay = request
    client = await gw.client()
    client.post(PATH, STREAM if is_stream else CHAT)
    if manner == "leaves at once":
        await asyncio.sleep(delay / 1000)
        client.close()
        return None
    try:
        head = await client.head()
        if manner == "never reads":
            client.writer.transport.pause_reading()
            await asyncio.sleep(3 * STALLED_SECONDS)
            return head.headers["x-request-id"] if head.status == 200 else None
        if manner == "stalls":
            client.writer.transport.pause_reading()
            await asyncio.sleep(0.02)
            client.writer.transport.resume_reading()
        if manner.startswith("leaves"):
            await asyncio.sleep(delay / 1000 if manner == "leaves later" else 0)
        else:
            await _check(client, head, is_stream)
        return head.headers["x-request-id"] if head.status == 200 else None
    finally:
        client.close()


async def _check(client, head, is_stream: bool) -> None:
    """An answer that was begun is whole, or says that it is not."""
    if head.headers.get("transfer-encoding") == "chunked":
        text = b"".join([piece async for piece in client.chunks()]).decode()
        is_complete = '"finish_reason":"stop"' in text and text.endswith("data: [DONE]\n\n")
        assert is_complete != ("event: error" in text)
        assert is_complete == ("[DONE]" in text)
    else:
        content = await client.reader.readexactly(int(head.headers["content-length"]))
        assert ("error" in json.loads(content)) == (head.status != 200)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    requests=st.lists(REQUEST, min_size=4, max_size=16),
    moods=st.lists(st.lists(ENGINE, min_size=1, max_size=6), min_size=1, max_size=3),
    slots=st.integers(1, 2),
    queue=st.integers(0, 12),
    moves=st.lists(MOVE, max_size=4),
    seed=st.integers(0, 1000),
)
def test_one_record_each_and_nothing_left(
    tmp_path_factory, requests, moods, slots, queue, moves, seed
):
    folder = tmp_path_factory.mktemp("run")

    asyncio.run(_whole(folder, requests, moods, slots, queue, moves, seed))


async def _whole(*told) -> None:
    """Tell the story; after it no task and no open file is left that was not there before."""
    files = len(os.listdir("/proc/self/fd"))
    await _story(*told)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await until(lambda: len(os.listdir("/proc/self/fd")) <= files)


async def _move(gw: Harness, route: dict, first: Upstream, moves) -> None:
    """Let what `moves` tell happen to the first replica."""
    for revision, (delay, move) in enumerate(moves, 2):
        await asyncio.sleep(delay / 1000)
        if move == "killed":
            await first.stop()
            continue
        replica, *others = route["replicas"]
        state = move if move in ("draining", "asleep", "ready") else "ready"
        replicas = [*others] if move == "gone" else [{**replica, "state": state}, *others]
        rights = key(max_in_flight=100, budget_exhausted=move == "budget used up")
        gw.apply(table({"m": {**route, "replicas": replicas}}, rights, revision=revision))


async def _story(folder, requests, moods, slots, queue, moves, seed) -> None:
    rules = {"size": queue, "timeout_seconds": 0.2}
    limits = Limits(stalled_reader_seconds=STALLED_SECONDS)
    deadlines = Deadlines(silence_seconds=0.1, probe_seconds=0.2, first_byte_seconds=0.4)
    async with asyncio.TaskGroup() as group:
        engines = [running(engine(own, seed + n)) for n, own in enumerate(moods)]
        upstreams = [await one.__aenter__() for one in engines]
        route = model(*upstreams, max_in_flight_per_replica=slots, queue=rules)
        value = table({"m": route}, key(max_in_flight=100))
        async with gateway(folder, value, limits=limits, deadlines=deadlines) as gw:
            for deployment in gw.core.fleet.deployments.values():
                for replica in deployment.replicas.values():
                    replica.breaker.backoff_seconds = 0.01
            at_first = list(gw.deployment.replicas.values())
            tasks = [group.create_task(behave(gw, request)) for request in requests]
            await _move(gw, route, upstreams[0], moves)
            answered = {task_id for task in tasks if (task_id := await task)}
            assert await gw.is_quiet()
            assert {(r.in_flight, r.pending_tokens, r.streams) for r in at_first} == {(0, 0, 0)}
            await until(lambda: gw.core.spool.open_count == 0)
            await until(lambda: len(gw._lines()) == gw.deployment.tally.requests)
            records = [json.loads(line) for line in gw._lines()]
            ids = [record["id"] for record in records]
            assert len(set(ids)) == len(ids)
            assert answered <= set(ids)
            assert all(not replica.pool._connecting for replica in gw.deployment.replicas.values())
            for replica in at_first:
                replica.pool.close_idle()
            _close_pools(gw)
            await until(lambda: not any(up.connections for up in upstreams))
            await until(lambda: not gw.app.clients)
        for one in engines:
            await one.__aexit__(None, None, None)


def _close_pools(gw: Harness) -> None:
    for replica in gw.deployment.replicas.values():
        replica.pool.close_idle()
