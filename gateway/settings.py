"""What one gateway process is told at its start: command line first, environment second.

Called once by `gateway.__main__`. A wrong value is refused with one sentence that names the
option and the fix; nothing later in the program reads the environment.
"""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class SettingsError(ValueError):
    """A value on the command line or in the environment cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what a client may make the gateway hold."""

    body_bytes: int = 32 * 1024 * 1024
    """Largest request body; a long-context prompt with images stays below it."""
    head_bytes: int = 32 * 1024
    """Request line and headers together."""
    connections: int = 8192
    """Open client connections; one more is answered 503 and closed."""
    head_timeout_seconds: float = 20.0
    """From the first byte of a request to the end of its headers."""
    body_timeout_seconds: float = 120.0
    """From the end of the headers to the end of the body."""
    keep_alive_seconds: float = 75.0
    """How long an idle client connection is kept."""
    stalled_reader_seconds: float = 60.0
    """A client that takes no byte for so long is given up."""
    choices: int = 64
    """Largest `n` in one request: each is a sequence of its own in the engine."""


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long the gateway waits for replicas."""

    connect_seconds: float = 5.0
    silence_seconds: float = 15.0
    """A replica that holds requests and sends nothing for so long is asked for its health."""
    probe_seconds: float = 5.0
    """A replica that does not answer that question in time is ejected."""
    first_byte_seconds: float = 900.0
    """An answer that has not begun after this is given up, however healthy the replica."""
    idle_seconds: float = 300.0
    """A stream without a byte for so long is given up, however healthy the replica."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a process needs to know at its start."""

    listen_host: str
    listen_port: int
    listen_unix: Path | None = None
    table: Path | None = None
    usage_log: Path | None = None
    control_plane: str = ""
    credential_file: Path | None = None
    data_dir: Path | None = None
    host_name: str = ""
    drain_seconds: float = 30.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origins: tuple[str, ...] = ()
    peers_dir: Path | None = None
    reuse_port: bool = False
    limits: Limits = Limits()
    deadlines: Deadlines = Deadlines()


def read(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Return the settings. Raises SettingsError; argparse ends the program on a wrong option."""
    options = _parser(environment).parse_args(arguments)
    control_plane = options.control_plane or ""
    if not options.table and not control_plane:
        control_plane = environment.get("HEARTH_CONTROL_PLANE_URL", "")
    if bool(options.table) == bool(control_plane):
        raise SettingsError("give either --table FILE or --control-plane URL, and not both")
    if bool(options.tls_cert) != bool(options.tls_key):
        raise SettingsError("--tls-cert and --tls-key belong together: give both or none")
    host, port = parse_address(options.listen)
    return Settings(
        listen_host=host,
        listen_port=port,
        listen_unix=options.listen_unix,
        table=options.table,
        usage_log=options.usage_log,
        control_plane=control_plane,
        credential_file=_credential_file(options.credential_file) if control_plane else None,
        data_dir=(options.data_dir or Path("data")) if control_plane else None,
        host_name=options.host_name,
        drain_seconds=options.drain_seconds,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        cors_origins=tuple(options.cors_origin),
        peers_dir=options.peers_dir,
        reuse_port=options.reuse_port,
        limits=Limits(body_bytes=options.max_body_bytes),
        deadlines=Deadlines(silence_seconds=options.silence_seconds),
    )


def parse_address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` or `[IPv6]:PORT`. Raises SettingsError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"--listen {text!r} is not HOST:PORT, for example 127.0.0.1:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway", description="OpenAI-compatible gateway to self-hosted engines."
    )
    add = parser.add_argument
    add("--table", type=Path, help="routing-table file; re-read when it changes")
    add("--usage-log", type=Path, help="with --table: append one JSON usage record per request")
    add("--control-plane", metavar="URL", help="http://host:port or unix:/path")
    add("--credential-file", type=Path, help="file that holds the gateway's credential")
    add("--data-dir", type=Path, default=_path(environment.get("HEARTH_DATA_DIR")))
    add("--host-name", default=environment.get("HEARTH_HOST_NAME") or socket.gethostname())
    add("--listen", default=environment.get("HEARTH_GATEWAY_ADDR", "127.0.0.1:8080"))
    add("--listen-unix", type=Path, help="also listen on this Unix socket")
    add("--drain-seconds", type=float, default=30.0, help="longest wait for open requests at stop")
    add("--tls-cert", type=Path, help="PEM certificate chain")
    add("--tls-key", type=Path, help="PEM private key")
    add("--cors-origin", action="append", default=[], help="origin a browser may call from")
    add("--peers-dir", type=Path, help="folder where gateways of this host meet")
    add("--reuse-port", action="store_true", help="let several gateways share one port")
    add("--max-body-bytes", type=int, default=Limits.body_bytes)
    add("--silence-seconds", type=float, default=Deadlines.silence_seconds)
    return parser


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _credential_file(path: Path | None) -> Path:
    if path is None:
        raise SettingsError("--control-plane needs --credential-file FILE")
    if not os.access(path, os.R_OK):
        raise SettingsError(f"--credential-file {path}: there is no such file, or no right to read")
    return path
