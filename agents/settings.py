"""What the person who starts an agent decides: command line, environment, defaults, all checked.

Read once at the start by `agents.__main__`; nothing else reads the environment. A wrong value
raises `UsageError`, whose message is one sentence that says what to change.
"""

import argparse
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from agents.wire import RuntimeKind

DEFAULT_IMAGES = ("vllm/vllm-openai", "hearth/")
"""Image repositories an agent starts when HEARTH_ALLOWED_IMAGES is not set."""
DEFAULT_PACKAGES = ("bentoml",)
"""Packages for custom engines when HEARTH_ALLOWED_PACKAGES is not set."""
SOCKET_PATH_LIMIT_BYTES = 104
"""Longest Unix socket path that every system takes (Linux 107, macOS 103)."""
REPLICA_ID_LIMIT = 40
"""Longest replica id an agent takes; a UUID has 36 characters."""
_LONGEST_RUN_SUFFIX = len("/run/") + REPLICA_ID_LIMIT + len("-g99999/engine.sock")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}|::1")
_LISTEN = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]\s]+):(?P<port>\d{1,5})")


class UsageError(Exception):
    """Something the person at the keyboard must mend; the message says what and how."""


@dataclass(frozen=True)
class Policy:
    """What this host allows, whatever the control plane orders. Set on the host alone."""

    allowed_images: tuple[str, ...] = DEFAULT_IMAGES
    """Image repositories; one that ends in `/` allows all below it."""
    weights_roots: tuple[Path, ...] = ()
    """Folders from which `path:` weights may be served."""
    engine_images: Mapping[str, str] = field(default_factory=dict)
    """Device -> image that this host uses where an order names none; always allowed."""
    allowed_packages: tuple[str, ...] = DEFAULT_PACKAGES
    """Packages that this host installs for custom engines, each in an environment of its own."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    command: str
    """`run` or `drain-and-stop`."""
    data_dir: Path
    control_plane: str = ""
    """`http(s)://host[:port]` or `unix:/path`."""
    host_name: str = ""
    join_token: str = ""
    runtime: RuntimeKind | None = None
    """None: the agent chooses."""
    relay_listen: tuple[str, int] = ("127.0.0.1", 0)
    relay_public_url: str = ""
    relay_certificate: tuple[Path, Path] | None = None
    """PEM files of the relay's certificate and its key."""
    group_address: str = "127.0.0.1"
    """Where engines of other hosts reach those of this one, for replicas over several hosts."""
    group_ports: tuple[int, int] = (29500, 29599)
    """First and last port where such engines may meet on this host."""
    fetch_bytes_per_second: int = 0
    """Cap on all that weights' downloads bring together; 0 is none."""
    compiled_dir: Path | None = None
    """Where engines keep what they compiled; None takes the cache of the user."""
    stop_process_replicas: bool = False
    """Stop the replicas of the process runtime when the agent is told to end."""
    policy: Policy = Policy()
    log_level: str = "INFO"

    @property
    def run_root(self) -> Path:
        """Return where the replicas' folders stand: short enough for a Unix socket path.

        Below a long data folder it is a link in the system's temporary folder to `data_dir/run`.
        """
        if len(os.fsencode(self.data_dir)) + _LONGEST_RUN_SUFFIX <= SOCKET_PATH_LIMIT_BYTES:
            return self.data_dir / "run"
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"hearth-{os.getuid()}" / digest


def read(argv: Sequence[str], env: Mapping[str, str]) -> Settings:
    """Return the settings of the command line `argv` (without the program) and `env`.

    Raises UsageError; argparse itself ends the program with code 2 on an unknown option.
    """
    given = _parser().parse_args(argv)
    data_dir = given.data_dir or env.get("HEARTH_AGENT_DIR")
    if not data_dir:
        raise UsageError("give the agent's folder with --data-dir or HEARTH_AGENT_DIR")
    folder = Path(data_dir).expanduser().absolute()
    if given.command == "drain-and-stop":
        return Settings(command=given.command, data_dir=folder)
    listen = _listen(given.relay_listen or env.get("HEARTH_RELAY_LISTEN"))
    public_url = given.relay_public_url or env.get("HEARTH_RELAY_PUBLIC_URL", "")
    return Settings(
        command=given.command,
        data_dir=folder,
        control_plane=_control_plane(given.control_plane or env.get("HEARTH_CONTROL_PLANE_URL")),
        host_name=_host_name(given.name or env.get("HEARTH_HOST_NAME") or os.uname().nodename),
        join_token=given.join_token or env.get("HEARTH_JOIN_TOKEN", ""),
        runtime=_runtime(given.runtime or env.get("HEARTH_RUNTIME") or "auto"),
        relay_listen=listen,
        relay_public_url=public_url.rstrip("/"),
        relay_certificate=_certificate(given.relay_tls_cert, given.relay_tls_key),
        group_address=_group_address(env.get("HEARTH_GROUP_ADDRESS"), listen[0], public_url),
        group_ports=_ports(env.get("HEARTH_GROUP_PORTS")),
        fetch_bytes_per_second=_bytes(env.get("HEARTH_FETCH_BYTES_PER_SECOND", "0")),
        compiled_dir=Path(env["HEARTH_COMPILED_DIR"]) if env.get("HEARTH_COMPILED_DIR") else None,
        stop_process_replicas=given.stop_replicas == "process",
        policy=_policy(env, folder),
        log_level=_log_level(env.get("HEARTH_LOG_LEVEL", "INFO")),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agents", description="Run Hearth's agent on this host."
    )
    add = parser.add_argument
    add("command", nargs="?", choices=("run", "drain-and-stop"), default="run",
        help="drain-and-stop ends every replica of this folder and the relay")  # fmt: skip
    add("--control-plane", metavar="URL", help="http(s)://host[:port] or unix:/path")
    add("--data-dir", metavar="DIR", help="folder of this agent's state and caches")
    add("--name", metavar="HOST", help="name of this host (default: the system's)")
    add("--join-token", metavar="TOKEN", help="one-time token, needed at the first start only")
    add("--runtime", metavar="auto|docker|process", help="how replicas are run (default: auto)")
    add("--relay-listen", metavar="HOST:PORT", help="where gateways reach this host's replicas "
        "(default 127.0.0.1:0, a free port)")  # fmt: skip
    add("--relay-public-url", metavar="URL", help="the relay's address as gateways see it")
    add("--relay-tls-cert", metavar="FILE", help="PEM certificate of the relay")
    add("--relay-tls-key", metavar="FILE", help="PEM key of the relay's certificate")
    add("--stop-replicas", choices=("none", "process"), default="none",
        help="what the agent stops when it is told to end (default: none)")  # fmt: skip
    return parser


def _bytes(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(
            f"HEARTH_FETCH_BYTES_PER_SECOND is {text!r}: use a whole number, 0 for none"
        )
    return int(text)


def _control_plane(url: str | None) -> str:
    if not url:
        raise UsageError(
            "give the control plane's address with --control-plane or HEARTH_CONTROL_PLANE_URL"
        )
    if url.startswith("unix:/"):
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--control-plane {url!r} is no address: use http(s)://host[:port] or unix:/path"
        )
    return url.rstrip("/")


def _host_name(name: str) -> str:
    if not _HOST_NAME.fullmatch(name):
        raise UsageError(
            f"--name {name!r} is no host name: use up to 63 letters, digits, dots and dashes"
        )
    return name


def _runtime(word: str) -> RuntimeKind | None:
    if word == "auto":
        return None
    try:
        return RuntimeKind(word)
    except ValueError:
        raise UsageError(f"--runtime {word!r} is unknown: use auto, docker or process") from None


def _listen(address: str | None) -> tuple[str, int]:
    if not address:
        return "127.0.0.1", 0
    match = _LISTEN.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise UsageError(f"--relay-listen {address!r} is no address: use HOST:PORT")
    return match["host"].strip("[]"), int(match["port"])


def _group_address(given: str | None, relay_host: str, public_url: str) -> str:
    """Return `given`, else where the relay is reached: other hosts come the same way."""
    if given and not _ADDRESS.fullmatch(given):
        raise UsageError(f"HEARTH_GROUP_ADDRESS {given!r} is no address: use an IP or a host name")
    if given:
        return given
    if relay_host in ("0.0.0.0", "::"):
        return urlsplit(public_url).hostname or ""
    return relay_host


def _ports(text: str | None) -> tuple[int, int]:
    first, _, last = (text or "29500-29599").partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1024 <= int(first) <= int(last) <= 65535):
        raise UsageError(f"HEARTH_GROUP_PORTS is {text!r}: use FIRST-LAST within 1024-65535")
    return int(first), int(last)


def _log_level(word: str) -> str:
    if word.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise UsageError(f"HEARTH_LOG_LEVEL {word!r} is unknown: use DEBUG, INFO, WARNING or ERROR")
    return word.upper()


def _certificate(cert: str | None, key: str | None) -> tuple[Path, Path] | None:
    if not cert and not key:
        return None
    if not cert or not key:
        raise UsageError("--relay-tls-cert and --relay-tls-key go together: give both")
    files = (Path(cert).absolute(), Path(key).absolute())
    for file in files:
        if not os.access(file, os.R_OK):
            raise UsageError(f"cannot read {file}: give a readable PEM file")
    return files


def _policy(env: Mapping[str, str], data_dir: Path) -> Policy:
    images = _words(env.get("HEARTH_ALLOWED_IMAGES", ""), ",") or DEFAULT_IMAGES
    roots = _words(env.get("HEARTH_WEIGHTS_ROOTS", ""), os.pathsep)
    for root in roots:
        if not Path(root).is_absolute():
            raise UsageError(f"HEARTH_WEIGHTS_ROOTS holds {root!r}: use absolute folders")
    engine_images = {
        device: image
        for device in ("cpu", "cuda")
        if (image := env.get(f"HEARTH_ENGINE_IMAGE_{device.upper()}"))
    }
    return Policy(
        allowed_images=images,
        weights_roots=(data_dir, *(Path(root) for root in roots)),
        engine_images=engine_images,
        allowed_packages=_words(env.get("HEARTH_ALLOWED_PACKAGES", ""), ",") or DEFAULT_PACKAGES,
    )


def _words(text: str, separator: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(separator) if word.strip())
