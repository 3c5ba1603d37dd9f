"""Read and check the environment variables behind `settings`."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from apps.lib import secrets

_SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=20000; "
    "PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-8000; PRAGMA temp_store=MEMORY;"
)


def data_dir() -> Path:
    """Return the folder of all state of a default installation, made if it is not there."""
    path = Path(os.environ.get("HEARTH_DATA_DIR", "data")).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ImproperlyConfigured(
            f"HEARTH_DATA_DIR: cannot make {path}: {error.strerror}. "
            "Name a folder that this user may write."
        ) from error
    return path


def secret_key(folder: Path) -> str:
    """Return Django's secret key, kept in the data folder."""
    return secrets.read_or_create(folder / "secret_key")[0]


def database(url: str, folder: Path) -> dict[str, Any]:
    """Return Django's settings for `DATABASE_URL`; SQLite in `folder` when it is empty."""
    if not url:
        return _sqlite(folder / "hearth.sqlite3")
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return _sqlite(Path(unquote(parts.path)))
    if parts.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured(
            "DATABASE_URL: the scheme must be postgresql:// (or sqlite:///path)."
        )
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    options["pool"] = {"min_size": 1, "max_size": 8, "timeout": 10}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }


def _sqlite(path: Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        # WAL alone fails at once with "database is locked" when a reader turns writer.
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": _SQLITE_PRAGMAS,
        },
    }


def run_dir(folder: Path) -> Path:
    """Return the folder for sockets: `folder`/run, or a short one when that path is too long.

    A Unix socket's path holds at most 107 bytes (unix(7), sun_path).
    """
    usual = folder / "run"
    if len(str(usual)) <= 80:
        return usual
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"hearth-{os.getuid()}-{name}"


def redis_url(folder: Path) -> str:
    """Return `REDIS_URL`, or the address of the private Redis that `up` starts in `folder`."""
    return os.environ.get("REDIS_URL") or f"unix://{run_dir(folder) / 'redis.sock'}"


def public_origins(public_url: str, web_addr: str) -> tuple[list[str], list[str]]:
    """Return (ALLOWED_HOSTS, CSRF_TRUSTED_ORIGINS) for the public URL and the listen address."""
    hosts = {"localhost", "127.0.0.1", "[::1]"}
    origins = []
    listen = web_addr.rpartition(":")[0]
    if listen in ("0.0.0.0", "::", "[::]"):
        hosts.add("*") if not public_url else None
    elif listen:
        hosts.add(listen)
    if public_url:
        parts = urlsplit(public_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImproperlyConfigured("HEARTH_PUBLIC_URL: give a whole address, as https://host.")
        hosts.add(parts.hostname)
        origins.append(f"{parts.scheme}://{parts.netloc}")
    return sorted(hosts), origins
