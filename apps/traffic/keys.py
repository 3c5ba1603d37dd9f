"""The form of API keys and gateway credentials, pure.

A key reads `hearth_<12 hex of its id>_<43 random characters><6 check characters>`: the id part is
shown in lists, the random part is 256 bits, the check lets scanners tell a real key from a typing
error. Only the SHA-256 of the whole is kept, which is fit for random secrets of that length.
"""

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from uuid import UUID

_FORM = re.compile(r"hearth_([0-9a-f]{12})_([A-Za-z0-9_-]{43})([0-9A-Za-z]{6})")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def prefix(key_id: UUID) -> str:
    """Return the part of a key that may be shown: enough to recognise it by."""
    return f"hearth_{key_id.hex[:12]}"


def make(key_id: UUID) -> str:
    """Return a new random key for `key_id`."""
    return _with_check(f"{prefix(key_id)}_{secrets.token_urlsafe(32)}")


def derive(key_id: UUID, master: str) -> str:
    """Return the one key for `key_id` that belongs to `master`: the same at every call.

    Nobody without `master` can make it, so it need not be kept anywhere. `master` is a secret of
    at least 256 bits; a new one gives a new key.
    """
    mac = hmac.digest(master.encode(), b"hearth.traffic.key:" + key_id.bytes, hashlib.sha256)
    random_part = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    return _with_check(f"{prefix(key_id)}_{random_part}")


def is_well_formed(key: str) -> bool:
    """Return whether `key` has the form of a key and its check characters are right."""
    found = _FORM.fullmatch(key)
    return found is not None and _check(key[:-6]) == found[3]


def _with_check(body: str) -> str:
    return body + _check(body)


def _check(body: str) -> str:
    rest, text = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, len(_DIGITS))
        text = _DIGITS[digit] + text
    return text
