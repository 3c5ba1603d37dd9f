"""Where others reach the gateway. Pure."""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]", "": "127.0.0.1"}
"""By a host that means every address: the one to dial on the same machine."""


def gateway_url(page_host: str, gateway_addr: str, *, secure: bool) -> str:
    """Return the gateway's base URL for OpenAI clients, e.g. `http://127.0.0.1:8080/v1`.

    `page_host` is the `host[:port]` under which the caller reached the web process: a gateway that
    listens everywhere is reached by the same name.
    """
    host, _, port = gateway_addr.rpartition(":")
    if host in _LOOPBACK:
        host = page_host if page_host.endswith("]") else page_host.rsplit(":", 1)[0]
    return f"{'https' if secure else 'http'}://{host}:{port}/v1"


def dialled(listens_at: str) -> str:
    """Return the `host:port` to dial for a program of this machine that listens at `listens_at`."""
    host, _, port = listens_at.rpartition(":")
    return f"{_LOOPBACK.get(host, host)}:{port}"
