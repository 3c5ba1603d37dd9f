"""Where a person at this page reaches the gateway. Pure."""

_WILDCARDS = ("0.0.0.0", "::", "[::]", "")


def gateway_url(page_host: str, gateway_addr: str, *, secure: bool) -> str:
    """Return the gateway's base URL, e.g. `http://127.0.0.1:8080/v1`.

    A gateway that listens everywhere is reached by the name under which the page was opened.
    """
    host, _, port = gateway_addr.rpartition(":")
    if host in _WILDCARDS:
        host = page_host if page_host.endswith("]") else page_host.rsplit(":", 1)[0]
    return f"{'https' if secure else 'http'}://{host}:{port}/v1"
