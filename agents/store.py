"""The agent's memory on disk: who it is, what it was last told, what it has begun.

One folder, 0700, belongs to one agent process at a time (`flock`). Every write that matters is
atomic and fsynced before the agent acts on it, so a kill at any instant leaves a state from which
the next start goes on. Called by `agents.agent` alone; the calls are short and block.
"""

import fcntl
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from agents import wire
from agents.settings import Settings, UsageError
from agents.wire import RuntimeKind, SyncReply

_IDENTITY = "identity.json"
_DESIRED = "desired.json"
_RUNTIMES = "runtimes.json"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this agent is; `credential` is empty until it has enrolled."""

    install_id: str
    """Random, made once per folder: a second folder under the same host name is refused by it."""
    host_id: str = ""
    host_name: str = ""
    credential: str = ""


class Store:
    """The folder of one agent. Make it with `open_store`."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    def close(self) -> None:
        """Let another agent have the folder."""
        os.close(self._lock)

    @property
    def journal_path(self) -> Path:
        return self.folder / "journal.jsonl"

    def identity(self) -> Identity:
        """Return who this agent is; a new folder gets a new `install_id`. Raises UsageError."""
        path = self.folder / _IDENTITY
        body = _read(path)
        if body is None:
            identity = Identity(install_id=secrets.token_hex(16))
            self.save_identity(identity)
            return identity
        try:
            return msgspec.json.decode(body, type=Identity)
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{path} is damaged ({error}): restore it, or remove it and enrol with a new token"
            ) from error

    def save_identity(self, identity: Identity) -> None:
        """Keep `identity`, readable by the owner alone."""
        write_atomically(self.folder / _IDENTITY, msgspec.json.encode(identity))

    def desired(self) -> SyncReply | None:
        """Return the last desired state, None if there is none that can be read.

        A damaged file is as good as none: replicas that run are adopted all the same, and the
        first sync brings the truth.
        """
        body = _read(self.folder / _DESIRED)
        if body is None:
            return None
        try:
            return wire.decode(SyncReply, body)
        except msgspec.DecodeError:
            return None

    def save_desired(self, reply: SyncReply) -> None:
        """Keep `reply` for the time when the control plane is away."""
        write_atomically(self.folder / _DESIRED, wire.encode(reply))

    def used_runtimes(self) -> tuple[RuntimeKind, ...]:
        """Return the runtimes that were ever chosen for this folder, the newest choice last."""
        body = _read(self.folder / _RUNTIMES) or b"[]"
        return tuple(RuntimeKind(word) for word in json.loads(body))

    def remember_runtime(self, kind: RuntimeKind) -> None:
        """Keep that `kind` was chosen: its instances are looked for from now on."""
        used = self.used_runtimes()
        if used[-1:] != (kind,):
            order = [*(word for word in used if word is not kind), kind]
            write_atomically(self.folder / _RUNTIMES, json.dumps(order).encode())


def open_store(folder: Path) -> Store:
    """Make `folder` this process's own and return it.

    Raises UsageError if it cannot be written or another agent runs in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        lock = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"cannot use the folder {folder}: {error.strerror}; "
            "give one that this user may write with --data-dir"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(
            f"another agent runs in {folder}: stop it, or give this one its own --data-dir"
        ) from None
    return Store(folder, lock)


def make_run_root(settings: Settings) -> Path:
    """Return the folder of the replicas' folders, made and safe. Raises UsageError if it is not."""
    real = settings.data_dir / "run"
    real.mkdir(mode=0o700, exist_ok=True)
    short = settings.run_root
    if short == real:
        return real
    parent = short.parent
    parent.mkdir(mode=0o700, exist_ok=True)
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UsageError(f"{parent} is not a folder of this user alone (0700): remove it")
    if not short.is_symlink() or short.readlink() != real:
        with suppress(FileNotFoundError):
            short.unlink()
        short.symlink_to(real)
    return short


def write_atomically(path: Path, body: bytes) -> None:
    """Replace `path` by `body`, mode 0600, and return when it is on the disk."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
