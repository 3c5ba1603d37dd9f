"""Seal text that must rest in the database for a while and may hold secrets.

Authenticated encryption (Fernet) with a key from Django's secret key, which lies in a file beside
the database: who reads the database alone learns nothing.
"""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

_PURPOSE = b"hearth sealing 1"


class Unsealable(Exception):
    """The text was sealed under another secret key, or was changed."""


def seal(text: str) -> str:
    """Return `text` sealed."""
    return _fernet().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Return what was sealed. Raises Unsealable."""
    try:
        return _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise Unsealable from error


def _fernet() -> Fernet:
    secret: str = settings.SECRET_KEY
    key = hashlib.blake2b(secret.encode(), digest_size=32, person=_PURPOSE).digest()
    return Fernet(base64.urlsafe_b64encode(key))
