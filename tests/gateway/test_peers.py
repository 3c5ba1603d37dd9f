"""Several gateway processes of one host: what one does the others know."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.core import Core
from gateway.peers import Load, News, Peers, Use
from gateway.settings import Settings
from gateway.table import parse
from tests.gateway.client import Client, ask
from tests.gateway.harness import CHAT, PATH, key, model, table, until
from tests.gateway.processes import process, write_table
from tests.gateway.upstream import Asked, running


def core(tmp_path, **fields) -> Core:
    made = Core(Settings(listen_host="", listen_port=0), None)
    places = [{"id": name, "url": "http://127.0.0.1:9"} for name in ("r1", "r2")]
    content = json.dumps(table({"m": model(*places)}, key(**fields))).encode()
    made.apply(parse(content), now=0.0, wall=0.0)
    return made


@contextlib.asynccontextmanager
async def met(one: Core, two: Core, folder: Path) -> AsyncIterator[tuple[Peers, Peers]]:
    """Two processes' worth of peers that know of each other."""
    first, second = Peers(one, folder), Peers(two, folder)
    one.sharing, two.sharing = first.books, second.books
    tasks = [asyncio.create_task(peers.run()) for peers in (first, second)]
    await until(lambda: first._addresses and second._addresses)
    try:
        yield first, second
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peers in (first, second):
            if peers._socket.fileno() >= 0:
                peers.close()


class TestPeers:
    async def test_a_peers_load_counts_and_goes_when_it_falls_silent(self, tmp_path):
        own = core(tmp_path)
        peers = Peers(own, tmp_path / "p")
        replica = own.fleet.deployments["m"].replicas["r1"]

        peers.take_in(News("other", [("m", "r1", Load(3, 500, 2))]), now=10.0)
        peers.take_in(News("other", [("m", "r1", Load(2, 400, 2))]), now=11.0)
        peers.take_in(News("other", [("m", "r1", Load(2, 400, 2))]), now=11.0)
        assert (replica.in_flight, replica.pending_tokens, replica.streams) == (2, 400, 2)
        assert replica.tally.in_flight == 0
        peers._forget_silent(20.0)

        assert (replica.in_flight, replica.pending_tokens, replica.streams) == (0, 0, 0)
        peers.close()

    async def test_a_peer_that_leaves_takes_its_load_with_it_at_once(self, tmp_path):
        one, two = core(tmp_path), core(tmp_path)
        async with met(one, two, tmp_path / "p") as (first, _second):
            deployment = one.fleet.deployments["m"]
            one.take(deployment, deployment.replicas["r1"], 700, [])
            seen = two.fleet.deployments["m"].replicas["r1"]
            await until(lambda: seen.in_flight == 1)

            first.close()

            await until(lambda: (seen.in_flight, seen.pending_tokens) == (0, 0), seconds=1.0)
            assert not list((tmp_path / "p").glob(f"{first._name}*"))

    async def test_a_folder_with_a_long_name_will_do(self, tmp_path):
        one, two = core(tmp_path), core(tmp_path)
        async with met(one, two, tmp_path / ("long" * 30)) as (first, second):
            assert len(first._addresses) == len(second._addresses) == 1

    async def test_keys_beyond_one_datagram_are_repeated_whole(self, tmp_path):
        one, two = core(tmp_path), core(tmp_path)
        async with met(one, two, tmp_path / "p") as (first, second):
            for number in range(3_000):
                first.books.used(f"{'k' * 40}{number}", 1, number)
            first._core.keys._ids = set(first.books.uses)

            first._repeat_all()

            await until(lambda: len(second._peers[first._name].uses) == 3_000)

    async def test_what_left_the_table_is_not_repeated(self, tmp_path):
        own = core(tmp_path)
        peers = Peers(own, tmp_path / "p")
        peers.books.began("m", "r1", 10, [])
        peers.books.began("m", "r-gone", 10, [])
        peers.books.ended("m", "r-gone", 10, streamed=False)
        peers.books.used("k-gone", 1, 10)
        peers.books.used("k-gone", 0, 0)

        peers._forget_own()

        assert set(peers.books.held) == {("m", "r1")}
        assert not peers.books.uses
        peers.close()

    async def test_what_a_key_used_elsewhere_counts_for_its_limits(self, tmp_path):
        own = core(tmp_path, rpm=3, tpm=1000)
        peers = Peers(own, tmp_path / "p")
        rule = next(iter(own.keys._by_hash.values()))
        use = own.keys.use_of(rule.id)
        now = time.monotonic()

        peers.take_in(News("other", uses=[(rule.id, Use(100, 9000, 1))]), now)
        peers.take_in(News("other", uses=[(rule.id, Use(103, 9100, 2))]), now)

        assert (use.requests, use.tokens, use.in_flight) == (3, 100, 2)
        peers.close()

    async def test_placements_and_loads_travel(self, tmp_path):
        one, two = core(tmp_path), core(tmp_path)
        async with met(one, two, tmp_path / "p"):
            deployment = one.fleet.deployments["m"]
            blocks = [2**64 - 1, *range(8_000)]
            one.take(deployment, deployment.replicas["r2"], 700, blocks)

            seen = two.fleet.deployments["m"]
            await until(lambda: seen.replicas["r2"].pending_tokens == 700)
            await until(lambda: seen.prefixes.match(blocks[:5]) == {"r2": 5})

    async def test_a_replica_that_was_replaced_starts_from_nothing(self, tmp_path):
        own = core(tmp_path)
        peers = Peers(own, tmp_path / "p")
        peers.take_in(News("other", [("m", "r1", Load(3, 500, 2))]), now=10.0)
        moved = {"id": "r1", "url": "http://127.0.0.1:10"}
        content = json.dumps(table({"m": model(moved)}, revision=2)).encode()
        own.apply(parse(content), now=0.0, wall=0.0)

        peers.take_in(News("other", [("m", "r1", Load(1, 0, 1))]), now=11.0)

        replica = own.fleet.deployments["m"].replicas["r1"]
        assert (replica.in_flight, replica.streams) == (1, 1)
        peers.close()

    async def test_two_processes_fill_a_deployment_as_one(self, tmp_path):
        async def never(asked: Asked) -> None:
            await asyncio.Event().wait()

        async with running(never) as up:
            path = tmp_path / "t.json"
            queue = {"size": 0, "timeout_seconds": 0}
            tight = model(up, max_in_flight_per_replica=2, queue=queue)
            write_table(path, table({"m": tight}))
            options = ("--table", str(path), "--peers-dir", str(tmp_path / "peers"))
            async with process(*options) as one, process(*options) as two:
                for gateway in (one, two):
                    await gateway.says(rb"other gateways on this host: 1")
                client = await Client.connect(one.port)
                client.post(PATH, CHAT)
                other = await Client.connect(one.port)
                other.post(PATH, CHAT)
                await up.wait_for(2)
                await asyncio.sleep(0.3)  # what is shared shows nowhere but in the next choice
                refused = await ask(two.port, PATH, CHAT)
                client.close()
                await asyncio.sleep(0.3)  # what is shared shows nowhere but in the next choice
                third = await Client.connect(two.port)
                third.post(PATH, CHAT)
                await up.wait_for(3)

                assert refused.status == 503
                other.close()
                third.close()
