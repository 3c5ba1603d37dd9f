"""A gateway's view of the control plane: its HTTP, over ASGI, with the doorbell connected."""

import asyncio
import contextlib

import httpx

from apps.lib.doorbell import Listener
from apps.traffic.endpoints import GatewayEndpoints


class Plane:
    """Use as `async with Plane(credential) as plane:` and post as a gateway."""

    def __init__(self, credential: str) -> None:
        self.listener = Listener()
        self._app = GatewayEndpoints(self.listener)
        self._credential = credential

    async def __aenter__(self) -> "Plane":
        self._ears = asyncio.create_task(self.listener.run())
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._app),
            base_url="http://web/gateway/v1",
            headers={"authorization": f"Bearer {self._credential}"},
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()
        self._ears.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ears

    async def table(self, **query) -> httpx.Response:
        return await self._client.get("/table", params=query)

    async def post(self, name: str, body: bytes, **headers) -> httpx.Response:
        return await self._client.post(f"/{name}", content=body, headers=headers)

    async def request(self, method: str, path: str, **more) -> httpx.Response:
        return await self._client.request(method, path, **more)
