"""A plain reverse proxy on aiohttp, without any feature: a peer that shows what a framework costs.

Run by the interpreter of its own environment: `python aiohttp_proxy.py PORT URL…`.
"""

import itertools
import sys

from aiohttp import ClientSession, TCPConnector, web

_KEPT = ("content-type", "authorization")


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass one request on to the next engine, and its answer back as it comes."""
    if request.method == "GET":
        return web.Response(text="{}")
    headers = {name: request.headers[name] for name in _KEPT if name in request.headers}
    url = next(request.app["urls"]) + request.path_qs
    body = await request.read()
    async with request.app["session"].post(url, data=body, headers=headers) as answer:
        kind = answer.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            content = await answer.read()
            return web.Response(status=answer.status, body=content, headers={"content-type": kind})
        response = web.StreamResponse(status=answer.status, headers={"content-type": kind})
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def application(urls: list[str]) -> web.Application:
    """Return the proxy in front of `urls`, taken in turn."""
    app = web.Application()
    app["urls"] = itertools.cycle(urls)
    app["session"] = ClientSession(connector=TCPConnector(limit=0))
    app.router.add_route("*", "/{path:.*}", forward)
    return app


if __name__ == "__main__":
    web.run_app(
        application(sys.argv[2:]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None,
        print=None,
    )  # fmt: skip
