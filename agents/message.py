"""What every message on the agents' wire is: a frozen value that goes over as JSON."""

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value on the wire; decode with `decode(kind, body)`, encode with `encode(message)`."""


def encode(message: Message) -> bytes:
    """Return the JSON of `message`, UTF-8."""
    return msgspec.json.encode(message)


def decode[M: Message](kind: type[M], body: bytes) -> M:
    """Return `body` as a `kind`. Raises msgspec.ValidationError naming the wrong field."""
    return msgspec.json.decode(body, type=kind)
