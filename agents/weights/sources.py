"""Where weights come from on this host: package indexes, the model hub, certificates, tokens.

Read once from the environment and from pip's own settings, so that a host behind a mirror needs
no second configuration. Called by `store`; tests build a `Sources` of their own.
"""

import configparser
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

DEFAULT_INDEX = "https://pypi.org/simple"
DEFAULT_HUB = "https://huggingface.co"
CONNECT_SECONDS = 15.0
IDLE_SECONDS = 60.0
"""A download that brings no byte for so long is given up and resumed."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    """Base addresses of package indexes (PEP 503 or 691), asked in this order."""
    hub: str = DEFAULT_HUB
    hub_token: str = ""
    certificates: str = ""
    """File of certificate authorities; empty takes the system's."""

    def client(self) -> httpx.AsyncClient:
        """Return a client for all of them. It drops credentials on a redirect to another host."""
        context = ssl.create_default_context(cafile=self.certificates or None)
        timeout = httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS)
        return httpx.AsyncClient(verify=context, follow_redirects=True, timeout=timeout)


def from_environment(environ: Mapping[str, str] = os.environ) -> Sources:
    """Return the sources that this host is configured for."""
    settings = _pip_settings(environ)
    first = (
        environ.get("PIP_INDEX_URL")
        or environ.get("UV_DEFAULT_INDEX")
        or environ.get("UV_INDEX_URL")
        or settings.get("index-url", DEFAULT_INDEX)
    )
    extra = environ.get("PIP_EXTRA_INDEX_URL") or settings.get("extra-index-url", "")
    indexes = (url.rstrip("/") for url in (first, *extra.split()) if url.startswith("http"))
    return Sources(
        indexes=tuple(dict.fromkeys(indexes)),
        hub=environ.get("HF_ENDPOINT", DEFAULT_HUB).rstrip("/"),
        hub_token=_hub_token(environ),
        certificates=environ.get("PIP_CERT") or settings.get("cert", ""),
    )


def _pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's `[global]` settings; later files win, as with pip."""
    settings: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, configparser.Error):
            continue  # pip itself reports a broken file; here the defaults do
        if parser.has_section("global"):
            settings.update(parser.items("global"))
    return settings


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    yield Path("/etc/pip.conf")
    home = Path(environ.get("HOME", "/"))
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    if chosen := environ.get("PIP_CONFIG_FILE"):
        yield Path(chosen)


def _hub_token(environ: Mapping[str, str]) -> str:
    """Return the hub token: HF_TOKEN, or the file that the hub's own tools keep it in."""
    if token := environ.get("HF_TOKEN"):
        return token.strip()
    home = environ.get("HF_HOME") or Path(environ.get("HOME", "/")) / ".cache" / "huggingface"
    path = Path(environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    try:
        return path.read_text().strip()
    except OSError:
        return ""
