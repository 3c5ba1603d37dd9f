"""The gateway process: builds the parts, runs their tasks, drains and stops.

Called by `gateway.__main__`. Exit codes: 0 after a stop by signal, 2 if it cannot start.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gateway import table
from gateway.app import Gateway
from gateway.core import Core
from gateway.follow import follow
from gateway.home import Home, open_home
from gateway.kv_feed import follow_events
from gateway.link import Link, LinkError
from gateway.live import Reporter
from gateway.peers import Peers
from gateway.server import ClientConnection
from gateway.settings import Settings
from gateway.ship import Shipper
from gateway.spool import Spool, SpoolError
from gateway.table import TableFile
from gateway.watch import sweep, watch_queues
from gateway.wire import RoutingTable

_RESTART_SECONDS = 1.0
UNSENT_BYTES = 128 * 1024
"""Of an answer, what the kernel takes from us before the network can. Its own limit is megabytes
for each client that does not read; how much is under way on a long path is not limited by this."""

_LAST_WORDS_SECONDS = 5.0
"""Longest wait for the last batch of usage at a stop; what is left goes at the next start."""

log = logging.getLogger("gateway")

type _Job = Callable[[], Awaitable[None]]


class StartError(Exception):
    """The gateway cannot start; one sentence says why."""


@dataclass(slots=True)
class _Parts:
    """What one process is made of."""

    core: Core
    app: Gateway
    spool: Spool | None
    jobs: dict[str, _Job]
    reporter: Reporter | None = None
    peers: Peers | None = None


async def run(settings: Settings) -> None:
    """Serve until a signal. Raises StartError."""
    parts = _assemble(settings)
    servers = await _listen(settings, parts.app)
    if parts.spool is not None:
        parts.spool.start()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    stop = _stop_event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_for_ever(name, job)) for name, job in parts.jobs.items()]
        await stop.wait()
        await _drain(parts.core, parts.app, servers, settings.drain_seconds)
        if parts.spool is not None:
            await parts.spool.stop()
        for task in tasks:
            task.cancel()
    if parts.peers is not None:
        parts.peers.close()
    if parts.reporter is not None:
        await _say_last_words(parts.reporter)


def _assemble(settings: Settings) -> _Parts:
    home = open_home(settings.data_dir) if settings.data_dir is not None else None
    log_path = home.usage_log if home is not None else settings.usage_log
    try:
        spool = Spool(log_path) if log_path is not None else None
    except SpoolError as error:
        raise StartError(str(error)) from error
    core = Core(settings, spool)
    app = Gateway(core)
    jobs: dict[str, _Job] = {
        "queues": lambda: watch_queues(core),
        "sweep": lambda: sweep(core, app.clients),
        "kv_events": lambda: follow_events(core),
    }
    parts = _Parts(core, app, spool, jobs)
    if home is not None:
        parts.reporter = _join(core, home, spool, jobs)
    if settings.table is not None:
        _read_table(core, TableFile(settings.table), jobs)
    parts.peers = _meet(core, home, jobs)
    return parts


def _join(core: Core, home: Home, spool: Spool | None, jobs: dict[str, _Job]) -> Reporter:
    """Add what ties the gateway to its control plane."""
    settings = core.settings
    if settings.credential_file is None or spool is None:
        raise StartError("--control-plane needs --credential-file FILE")
    try:
        link = Link(settings.control_plane, settings.credential_file)
    except (ValueError, OSError) as error:
        raise StartError(f"--control-plane: {error}") from error
    shipper = Shipper(link, home.gateway_id, home.usage_log)
    spool.on_flush = shipper.more
    reporter = Reporter(
        core,
        link,
        shipper,
        gateway_id=home.gateway_id,
        host=settings.host_name,
        listen=f"{settings.listen_host}:{settings.listen_port}",
        started_at=time.time(),
    )
    with contextlib.suppress(table.TableError):
        _apply(core, table.load(home.table))
    jobs["follow"] = lambda: follow(
        link, settings.host_name, home.table, lambda new: _apply(core, new), core.table_revision
    )
    jobs["usage"] = shipper.run
    jobs["live"] = reporter.run
    return reporter


def _meet(core: Core, home: Home | None, jobs: dict[str, _Job]) -> Peers | None:
    """Join the other gateways of this host, if there is a place to meet."""
    folder = core.settings.peers_dir or (home.folder.parent / "peers" if home else None)
    if folder is None:
        return None
    try:
        peers = Peers(core, folder)
    except OSError as error:
        raise StartError(f"--peers-dir {folder}: {error.strerror or error}") from error
    core.sharing = peers.books
    jobs["peers"] = peers.run
    return peers


def _apply(core: Core, new: RoutingTable) -> None:
    core.apply(new, now=time.monotonic(), wall=time.time())
    log.info("routing table %d: %d models, %d keys", new.revision, len(new.models), len(new.keys))


def _read_table(core: Core, file: TableFile, jobs: dict[str, _Job]) -> None:
    try:
        _apply(core, file.load())
    except table.TableError as error:
        raise StartError(f"--table {file.path}: {error}") from error
    jobs["table"] = lambda: file.watch(lambda new: _apply(core, new))


async def _for_ever(name: str, job: _Job) -> None:
    """Run `job`; if it fails by a fault of ours, say so and begin anew."""
    while True:
        try:
            await job()
        except Exception:
            # The outermost loop of each task.
            log.exception("%s failed; it begins anew", name)
        await asyncio.sleep(_RESTART_SECONDS)


# --- Listening ---------------------------------------------------------------------------------


async def _listen(settings: Settings, app: Gateway) -> list[asyncio.Server]:
    loop = asyncio.get_running_loop()
    tls = _tls(settings)
    address = f"{settings.listen_host}:{settings.listen_port}"
    try:
        server = await loop.create_server(
            _protocol(app),
            settings.listen_host,
            settings.listen_port,
            ssl=tls,
            backlog=1024,
            reuse_port=settings.reuse_port or None,
        )
    except OSError as error:
        raise StartError(_why_not(address, error)) from error
    for listener in server.sockets:
        # What is accepted there inherits it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    port = server.sockets[0].getsockname()[1]
    log.info("listening on %s://%s:%d", "https" if tls else "http", settings.listen_host, port)
    servers = [server]
    if settings.listen_unix is not None:
        servers.append(await _listen_unix(settings.listen_unix, app))
    return servers


def _protocol(app: Gateway) -> Callable[[], asyncio.Protocol]:
    return lambda: cast(asyncio.Protocol, ClientConnection(app))


async def _listen_unix(path: Path, app: Gateway) -> asyncio.Server:
    try:
        _make_room(path)
        server = await asyncio.get_running_loop().create_unix_server(
            _protocol(app), str(path), backlog=1024
        )
        os.chmod(path, 0o600)
    except OSError as error:
        raise StartError(_why_not(str(path), error)) from error
    return server


def _make_room(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_stale(path):
        path.unlink()


def _is_stale(path: Path) -> bool:
    """True if a socket lies at `path` that nobody listens on."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _why_not(address: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address} is in use: stop what listens there, or give another with --listen"
    return f"cannot listen on {address}: {error.strerror or error}"


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"--tls-cert {settings.tls_cert}: {error}") from error
    return context


# --- Stopping ----------------------------------------------------------------------------------


def _stop_event() -> asyncio.Event:
    """Return what the first SIGTERM or SIGINT sets; a second one ends the process at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop


async def _drain(
    core: Core, app: Gateway, servers: list[asyncio.Server], drain_seconds: float
) -> None:
    """Take nothing new, let what is open end, and after the limit end it with an error."""
    core.is_draining = True
    for server in servers:
        server.close()
    for deployment in core.fleet.deployments.values():
        while (ticket := deployment.queue.next()) is not None:
            ticket.waiter.give_up("The gateway is stopping.")
    for client in list(app.clients):
        client.close_if_idle()
    log.info("stopping: %d requests are open", len(core.open))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_seconds):
            await core.idle.wait()
    core.is_stopping = True
    for request in list(core.open):
        request.stop()
    await asyncio.sleep(0)


async def _say_last_words(reporter: Reporter) -> None:
    """Push the last numbers and the last batch, if the control plane is there."""
    try:
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await reporter.push()
            while await reporter.shipper.ship_batch():
                pass
    except (TimeoutError, LinkError, OSError) as error:
        log.warning("the last usage goes at the next start: %s", error)
