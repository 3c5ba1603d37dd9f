"""Random secrets, their digests, and small secret files."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path


def make(prefix: str) -> str:
    """Return a new 256-bit secret as `<prefix>_<43 URL-safe characters>`."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> str:
    """Return the hex SHA-256 of `secret`. Fit for 256-bit random secrets only (ASVS 6.5.2)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, hex_digest: str) -> bool:
    """Return whether `secret` has that digest, in constant time."""
    return hmac.compare_digest(digest(secret), hex_digest)


def read_or_create(path: Path, make_value: str | None = None) -> tuple[str, bool]:
    """Return the secret kept in `path` (mode 0600) and whether this call created it.

    Safe against two processes at once: the file appears whole, and the first one wins.
    """
    try:
        return path.read_text().strip(), False
    except FileNotFoundError:
        pass
    value = make_value or secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(value + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        return path.read_text().strip(), False
    finally:
        draft.unlink()
    return value, True
