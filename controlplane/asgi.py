"""The web process: agents and gateways by plain ASGI, browsers by Channels, the rest by Django."""

import asyncio
import contextlib
import os

import django
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
django.setup()

# Only after setup: these modules read models.
from apps.dashboard.routing import websocket_urlpatterns  # noqa: E402
from apps.deployments.endpoints import AgentEndpoints  # noqa: E402
from apps.lib.asgi import Receive, Scope, Send  # noqa: E402
from apps.lib.doorbell import Listener  # noqa: E402
from apps.traffic.endpoints import GatewayEndpoints  # noqa: E402


class Web:
    """Routes by path before Django sees a request, and runs the doorbell's listener."""

    def __init__(self) -> None:
        self._listener = Listener()
        self._agents = AgentEndpoints(self._listener)
        self._gateways = GatewayEndpoints(self._listener)
        self._django = get_asgi_application()
        self._browsers = ProtocolTypeRouter(
            {
                "http": self._django,
                "websocket": AllowedHostsOriginValidator(
                    AuthMiddlewareStack(URLRouter(websocket_urlpatterns))
                ),
            }
        )
        self._ears: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and scope["path"].startswith("/agent/v1/"):
            await self._agents(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith("/gateway/v1/"):
            await self._gateways(scope, receive, send)
        else:
            await self._browsers(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._ears = asyncio.create_task(self._listener.run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._ears.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ears
        await send({"type": "lifespan.shutdown.complete"})


application = Web()
