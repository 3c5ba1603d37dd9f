"""The gateway as a process: start, reload, drain, kill, and life with a control plane."""
# ruff: noqa: SIM117  nested, the lines stay short

import asyncio
import json
import re
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.gateway.client import Client, ask, events, fetch
from tests.gateway.control_plane import CREDENTIAL, control_plane
from tests.gateway.harness import CHAT, PATH, STREAM, key, model, table, until
from tests.gateway.processes import process, start, write_table
from tests.gateway.upstream import (
    Asked,
    Upstream,
    begin_stream,
    chat_chunk,
    running,
    send_event,
    whole_chat,
)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


async def endless(asked: Asked) -> None:
    await begin_stream(asked)
    while True:
        await send_event(asked, chat_chunk("more"))
        await asyncio.sleep(0.01)


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    return tmp_path / "table.json", tmp_path / "usage.jsonl"


class TestStart:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"{", "malformed|truncated"),
            (b'{"models": {}}', "revision"),
            (b'{"revision":1,"models":{"m":{"deployment":"m","replicas":[{"id":"a","url":"ftp://x"}]}}}',
             r"\$\.models\['m'\]\.replicas\[0\]\.url.*ftp"),
            (b'{"revision":1,"models":{"m":{"deployment":"m","policy":"luck"}}}', "policy 'luck'"),
            (b'{"revision":1,"keys":[{"id":"k","sha256":"short"}]}', r"keys\[0\]\.sha256"),
        ],
        ids=["no json", "no revision", "url", "policy", "hash"],
    )  # fmt: skip
    async def test_with_a_bad_table_ends_with_one_sentence(self, files, content, words):
        files[0].write_bytes(content)

        gateway = await start("--table", str(files[0]), listening=False)
        code = await gateway.ends()

        assert code == 2
        assert re.search(words, gateway.log.decode(), re.IGNORECASE)
        assert b"Traceback" not in gateway.log

    async def test_on_a_busy_port_says_so(self, files):
        write_table(files[0], table({}))
        async with running() as up:
            address = f"127.0.0.1:{up.port}"
            gateway = await start(
                "--table", str(files[0]), "--listen", address, listening=False
            )  # fmt: skip
            code = await gateway.ends()

            assert code == 2
            assert gateway.log.decode().splitlines()[-1] == (
                f"gateway: {address} is in use: "
                "stop what listens there, or give another with --listen"
            )

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--table", "x", "--control-plane", "http://y"], ["--control-plane", "http://y"],
         ["--table", "x", "--listen", "nowhere"], ["--table", "x", "--tls-cert", "c"]],
        ids=["neither", "both", "no credential", "address", "half of tls"],
    )  # fmt: skip
    async def test_with_wrong_options_ends_with_code_2(self, arguments):
        gateway = await start(*arguments, listening=False)

        assert await gateway.ends() == 2
        assert b"Traceback" not in gateway.log

    async def test_stays_small_and_still(self, files):
        write_table(files[0], table({}, *[key(f"sk-{n}") for n in range(1000)]))
        async with process("--table", str(files[0]), "--usage-log", str(files[1])) as gateway:
            await fetch(gateway.port, "/healthz")
            seen = psutil.Process(gateway.process.pid)
            before = seen.cpu_times()
            await asyncio.sleep(1.0)
            after = seen.cpu_times()

            assert seen.memory_info().rss < 60 * 1024 * 1024
            assert after.user + after.system - before.user - before.system <= 0.05


class TestSlowReaders:
    async def test_of_a_stream_that_nobody_reads_little_is_held_by_the_kernel(self, files):
        sent, is_stuck = 0, asyncio.Event()

        async def flood(asked: Asked) -> None:
            nonlocal sent
            asked.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024
            )
            await begin_stream(asked)
            while True:
                try:
                    await asyncio.wait_for(send_event(asked, chat_chunk("x" * 10_000)), 0.5)
                except TimeoutError:
                    is_stuck.set()
                    return
                sent += 10_000

        async with running(flood) as up:
            write_table(files[0], table({"m": model(up)}))
            async with process("--table", str(files[0])) as gateway:
                client = await Client.connect(gateway.port)
                client.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024
                )
                client.post(PATH, STREAM)
                await client.head()
                client.writer.transport.pause_reading()
                await asyncio.wait_for(is_stuck.wait(), 20)
                client.close()

        assert sent < 2_000_000


class TestTableFile:
    async def test_is_read_anew_when_it_changes_and_kept_when_it_is_bad(self, files):
        async with running() as up:
            write_table(files[0], table({"m": model(up)}))
            async with process("--table", str(files[0])) as gateway:
                write_table(files[0], table({"n": model(up)}, revision=2))
                await gateway.says(b"routing table 2")
                files[0].write_text('{"revision": 3, "models": 7}')
                await gateway.says(rb"models.*the last good table stays")
                answer = await ask(gateway.port, PATH, {**CHAT, "model": "n"})

                assert answer.status == 200
                assert gateway.log.count(b"last good table") == 1


class TestStop:
    async def test_lets_streams_end_and_takes_nothing_new(self, files):
        go_on = asyncio.Event()

        async def slow(asked: Asked) -> None:
            await begin_stream(asked)
            await send_event(asked, chat_chunk("first"))
            await go_on.wait()
            await send_event(asked, chat_chunk("", "stop"))
            await send_event(asked, "[DONE]")
            asked.writer.write(b"0\r\n\r\n")

        async with running(slow) as up:
            write_table(files[0], table({"m": model(up)}))
            async with process("--table", str(files[0]), "--usage-log", str(files[1])) as gateway:
                client, idle = [await Client.connect(gateway.port) for _ in range(2)]
                idle.get("/healthz")
                await idle.answer()
                client.post(PATH, STREAM)
                await client.head()
                await client.event()
                gateway.signal(signal.SIGTERM)
                await gateway.says(b"stopping: 1 requests are open")
                assert await idle.is_closed()
                with pytest.raises(ConnectionRefusedError):
                    await Client.connect(gateway.port)
                go_on.set()

                assert '"stop"' in await client.event()
                assert await client.event() == "data: [DONE]"
                assert await gateway.ends() == 0
                assert lines(files[1])[0]["outcome"] == "completed"

    async def test_ends_what_lasts_longer_than_the_limit_with_an_error(self, files):
        async with running(endless) as up:
            write_table(files[0], table({"m": model(up)}))
            async with process(
                "--table", str(files[0]), "--usage-log", str(files[1]), "--drain-seconds", "0.2"
            ) as gateway:
                client = await Client.connect(gateway.port)
                client.post(PATH, STREAM)
                await client.head()
                gateway.signal(signal.SIGTERM)
                body = b"".join([piece async for piece in client.chunks()])

                assert events(body)[-1].startswith("event: error")
                assert b"[DONE]" not in body
                assert await gateway.ends() == 0
                assert lines(files[1])[0]["outcome"] == "failed"


class TestKill:
    async def test_loses_no_admitted_request(self, files):
        async with running(endless) as up:
            write_table(files[0], table({"m": model(up)}))
            arguments = ("--table", str(files[0]), "--usage-log", str(files[1]))
            async with process(*arguments) as gateway:
                clients = [await Client.connect(gateway.port) for _ in range(20)]
                ids = set()
                for client in clients:
                    client.post(PATH, STREAM)
                    ids.add((await client.head()).headers["x-request-id"])
                await gateway.kill()
            async with process(*arguments) as gateway:
                pass

            written = lines(files[1])
            assert {r["id"] for r in written} == ids
            assert len(written) == 20
            assert {r["outcome"] for r in written} == {"gateway_lost"}
            for asked in up.asked:
                async with asyncio.timeout(1):
                    await asked.gone.wait()


class TestTls:
    async def test_serves_https(self, files, tmp_path):
        certificate = _certificate(tmp_path)
        async with running() as up:
            write_table(files[0], table({"m": model(up)}))
            tls = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
            async with process("--table", str(files[0]), *tls) as gateway:
                import ssl  # noqa: PLC0415

                context = ssl.create_default_context(cafile=str(certificate[0]))
                pair = await asyncio.open_connection(
                    "127.0.0.1", gateway.port, ssl=context, server_hostname="localhost"
                )
                client = Client(*pair)
                client.post(PATH, STREAM)
                answer = await client.answer()

                assert events(answer.body)[-1] == "data: [DONE]"
                client.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415

    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


class TestControlPlane:
    @pytest.fixture
    def arguments(self, tmp_path) -> list[str]:
        (tmp_path / "credential").write_text(CREDENTIAL + "\n")
        return ["--credential-file", str(tmp_path / "credential"),
                "--data-dir", str(tmp_path / "data"), "--host-name", "host 1"]  # fmt: skip

    async def test_gives_the_table_and_gets_usage_and_live_numbers(self, arguments, tmp_path):
        async with running() as up, control_plane(
            table({"m": model(up)}), unix=tmp_path / "cp.sock"
        ) as plane:  # fmt: skip
            socket = tmp_path / "gw.sock"
            async with process(
                "--control-plane", plane.upstream.url, "--listen-unix", str(socket), *arguments
            ) as gateway:
                await gateway.says(b"routing table 1")
                answers = [await ask(gateway.port, PATH, CHAT) for _ in range(3)]
                await until(lambda: len(plane.records) == 3)

                assert {a.headers["x-request-id"] for a in answers} == set(plane.records)
                await until(lambda: plane.now("m").requests_total == 3)
                assert plane.lives[-1].replicas["r1"].output_tokens_total == 9
                assert plane.hosts == {"host 1"}
                reader, writer = await asyncio.open_unix_connection(str(socket))
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()

    async def test_hears_of_open_streams_in_time(self, arguments):
        async with running(endless) as up, control_plane(table({"m": model(up)})) as plane:
            async with process("--control-plane", plane.upstream.url, *arguments) as gateway:
                await gateway.says(b"routing table 1")
                clients = [await Client.connect(gateway.port) for _ in range(5)]
                for client in clients:
                    client.post(PATH, STREAM)
                    await client.head()
                await until(lambda: plane.now("m").in_flight == 5, 1.5)
                for client in clients:
                    client.close()
                await until(lambda: plane.now("m").in_flight == 0, 1.5)

    async def test_is_rung_for_a_deployment_at_zero(self, arguments):
        empty = {"deployment": "m", "wakeable": True}
        async with running() as up, control_plane(table({"m": empty})) as plane:
            async with process("--control-plane", plane.upstream.url, *arguments) as gateway:
                await gateway.says(b"routing table 1")
                pending = asyncio.create_task(ask(gateway.port, PATH, CHAT))
                await until(lambda: plane.lives and plane.lives[-1].ring == ("m",))
                plane.put(table({"m": model(up)}, revision=2))

                assert (await pending).status == 200

    async def test_may_go_away_and_come_back(self, arguments, tmp_path):
        async with running() as up, control_plane(table({"m": model(up)})) as plane:
            port = plane.upstream.port
            url = plane.upstream.url
            async with process("--control-plane", url, *arguments) as gateway:
                await gateway.says(b"routing table 1")
                await plane.upstream.stop()
                assert (await ask(gateway.port, PATH, CHAT)).status == 200
                gateway.signal(signal.SIGTERM)
                assert await gateway.ends() == 0
            async with process("--control-plane", url, *arguments) as gateway:
                assert (await ask(gateway.port, PATH, CHAT)).status == 200
                plane.loses_acks = 1
                await plane.upstream.start(port=port)
                await until(lambda: len(plane.records) == 2, 10)
                await until(lambda: plane.batches >= 2, 10)

            assert len(plane.records) == 2

    async def test_loses_no_record_to_a_kill(self, arguments):
        async with running(endless) as up, control_plane(table({"m": model(up)})) as plane:
            url = ("--control-plane", plane.upstream.url, *arguments)
            async with process(*url) as gateway:
                await gateway.says(b"routing table 1")
                clients = [await Client.connect(gateway.port) for _ in range(5)]
                for client in clients:
                    client.post(PATH, STREAM)
                    await client.head()
                await gateway.kill()
            async with process(*url):
                await until(lambda: len(plane.records) == 5, 10)

            assert {r["outcome"] for r in plane.records.values()} == {"gateway_lost"}

    async def test_two_gateways_share_a_data_folder(self, arguments):
        async with running() as up, control_plane(table({"m": model(up)})) as plane:
            url = ("--control-plane", plane.upstream.url, *arguments)
            async with process(*url) as one, process(*url) as two:
                for gateway in (one, two):
                    await gateway.says(b"routing table 1")
                    assert (await ask(gateway.port, PATH, CHAT)).status == 200
                await until(lambda: len(plane.records) == 2)

                assert len({live.gateway_id for live in plane.lives}) == 2


async def test_an_upstream_in_a_table_may_appear_later(tmp_path):
    up = Upstream(whole_chat)
    await up.start(unix=tmp_path / "later.sock")
    await up.stop()
    replica = {"id": "r1", "url": f"unix:{tmp_path / 'later.sock'}"}
    write_table(tmp_path / "t.json", table({"m": model(replica)}))
    async with process("--table", str(tmp_path / "t.json")) as gateway:
        pending = asyncio.create_task(ask(gateway.port, PATH, CHAT))
        await gateway.says(b"replica r1")
        (tmp_path / "later.sock").unlink(missing_ok=True)
        await up.start(unix=tmp_path / "later.sock")

        assert (await pending).status == 200
    await up.stop()
