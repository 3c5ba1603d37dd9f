"""Reads one request of any shape by llhttp: chunked bodies, expectations, offers of upgrades.

httptools (llhttp, lenient flags off) refuses both lengths at once, obs-fold, bad chunk sizes and
bare LF; this module refuses the rest: a missing or doubled Host, a transfer coding other than
`chunked`, and heads and bodies over their limits. Called by `gateway.server` for requests that
`gateway.fields` does not take.
"""

import time

import httptools

from gateway.request import Request
from gateway.settings import Limits

_MOST_HEADERS = 128
_SINGLE = {b"host", b"authorization", b"x-api-key", b"content-type", b"x-session-id"}
"""Headers of which a second one would leave open which counts."""


class MalformedError(Exception):
    """The request breaks a rule of HTTP or of this front."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class RequestReader:
    """What has come of one request."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head: dict[bytes, bytes] = {}
        self._url = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_chunked = False
        self._is_upgrading = False
        self.version = ""
        self.has_head = False
        self.expects = False
        """The client waits for `100 Continue`."""
        self.request: Request | None = None
        """Set once it is whole."""
        self.closes = False
        """The connection ends with the answer."""
        self.has_more = False
        """Something follows the request."""

    def feed(self, data: bytes) -> None:
        """Take in a packet. Raises MalformedError."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self.request is None:
                raise _what_is_wrong(error) from error
            self.has_more = True  # garbage behind a whole request: that one is answered first

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Take an offer of another protocol (some Java clients offer h2c) for plain HTTP/1.1."""
        headers = self._head
        length = headers.get(b"content-length", b"0")
        if self._is_chunked:
            raise MalformedError("A protocol upgrade cannot go with a chunked body.")
        method, url = self._parser.get_method(), self._url
        self._parser = httptools.HttpRequestParser(self)
        self._headers, self._url = {}, b""
        self.has_head = False
        lines = b"".join(
            name + b": " + value + b"\r\n"
            for name, value in headers.items()
            if name not in (b"upgrade", b"connection", b"http2-settings", b"content-length")
        )
        head = method + b" " + url + b" HTTP/1.1\r\n" + lines
        self.feed(head + b"content-length: " + length + b"\r\n\r\n" + rest)

    # --- httptools: raising MalformedError refuses the request -------------------------------

    def on_url(self, url: bytes) -> None:
        if self.request is not None:
            self.has_more = True
            return
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        if name in headers and name in _SINGLE:
            raise MalformedError(f"The header {name.decode('latin-1')!r} is there twice.")
        headers[name] = value

    def on_headers_complete(self) -> None:
        if self.has_head:
            return
        # Trailers, which carry nothing that counts, go to a dictionary that nobody reads.
        self._head, self._headers = self._headers, {}
        self._check_head()
        self.has_head = True

    def on_body(self, data: bytes) -> None:
        if self.request is not None:
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes:
            raise self._too_large()
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self.request is not None or not self.has_head or self._is_upgrading:
            return
        content = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self.request = Request(
            self._parser.get_method(), self._url, self._head, content, time.monotonic()
        )
        self.closes = self.version == "1.0" or not self._parser.should_keep_alive()

    def _check_head(self) -> None:
        headers, version = self._head, self._parser.get_http_version()
        self.version = version
        if version == "1.1":
            if b"host" not in headers:
                raise MalformedError("The header 'Host' is missing.")
        elif version != "1.0":
            raise MalformedError(f"HTTP {version} is not spoken here.", 505)
        if len(headers) > _MOST_HEADERS:
            raise MalformedError("There are too many headers.", 431)
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            raise self._too_large()
        if b"transfer-encoding" in headers:
            self._check_coding(headers[b"transfer-encoding"])
        if b"expect" in headers:
            self._check_expectation(headers[b"expect"], length)
        self._is_upgrading = self._parser.should_upgrade()

    def _check_coding(self, coding: bytes) -> None:
        if self.version == "1.0" or coding.strip().lower() != b"chunked":
            raise MalformedError("The only transfer coding taken is 'chunked'.", 501)
        self._is_chunked = True

    def _check_expectation(self, expectation: bytes, length: bytes | None) -> None:
        if expectation.lower() != b"100-continue":
            raise MalformedError("The only expectation met is '100-continue'.", 417)
        has_body = self._is_chunked or length not in (None, b"0")
        self.expects = self.version == "1.1" and has_body

    def _too_large(self) -> MalformedError:
        most = self._limits.body_bytes
        return MalformedError(f"The request body is over the limit of {most} bytes.", 413)


def _what_is_wrong(error: httptools.HttpParserError) -> MalformedError:
    if isinstance(error, httptools.HttpParserCallbackError):
        refusal = error.__context__
        if not isinstance(refusal, MalformedError):
            raise error
        return refusal
    return MalformedError(f"This is not a valid HTTP request: {error}")
