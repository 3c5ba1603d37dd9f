"""Where a replica or the control plane answers. Pure."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica answers."""

    host: str
    port: int
    unix: str
    prefix: str
    tls: bool


def parse_url(url: str) -> Address:
    """Return the address in `http(s)://host[:port][/prefix]` or `unix:/path`.

    Raises ValueError naming what is wrong.
    """
    if url.startswith("unix:"):
        path = url[5:]
        if not path.startswith("/"):
            raise ValueError(f"{url!r}: a Unix socket needs an absolute path, as unix:/run/x.sock")
        return Address("", 0, path, "", tls=False)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is neither http://host:port nor unix:/path")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    if any(c.isspace() or ord(c) < 33 for c in url):
        raise ValueError(f"{url!r} holds blanks or control characters")
    return Address(parts.hostname, port, "", parts.path.rstrip("/"), tls)
