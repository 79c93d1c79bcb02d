"""What Envoy's module loads: the gateway's application, on the module's one event loop.

The parent process (gateway.edge.envoy) starts Envoy, and speaks with this side over gateway.edge.control.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from pydantic import Field

from gateway.app import GatewayApplication
from gateway.edge import control, loop_errors
from gateway.edge.asgi_server import AsgiServer
from gateway.edge.control import Control
from gateway.edge.departures import Departures
from gateway.settings import GatewaySettings
from tokenrelay import lifecycle, logs
from tokenrelay import settings as all_settings
from tokenrelay.lifecycle import StopRequests

Events = Callable[..., Awaitable[Any]]


class InsideSettings(GatewaySettings):
    """A gateway's settings, and what its parent process hands over."""

    edge_control: int = Field(description="the file descriptor of this end of the socket pair")
    edge_departures: int = Field(description="the file descriptor to read from who has left")


class Inside:
    """The ASGI application: lives from the module's lifespan on, until the parent says that it is to drain."""

    def __init__(self) -> None:
        self._server: AsgiServer | None = None

    async def __call__(self, scope: dict[str, Any], receive: Events, send: Events) -> None:
        """Serves one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            assert self._server is not None  # Envoy listens only after the lifespan's start
            await self._server.serve(scope, receive, send)

    async def _lifespan(self, receive: Events, send: Events) -> None:
        await receive()
        settings = all_settings.load(InsideSettings)
        logs.set_up("gateway", settings)
        asyncio.get_running_loop().set_exception_handler(loop_errors.handle)
        departures = Departures()
        departures.watch(settings.edge_departures)
        parent = await Control.open(socket.socket(fileno=settings.edge_control))
        server = self._server = AsgiServer(departures)
        life = asyncio.create_task(_live(Announced(GatewayApplication(settings, server.build, ends_tls=False), parent), parent))
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait({life, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if life.done():
            await send({"type": "lifespan.startup.failed", "message": "see the gateway's log"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # the shutdown
        # The parent ends Envoy only when the life is over. This is for an Envoy that somebody else ends.
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life
        await send({"type": "lifespan.shutdown.complete"})


class Announced:
    """The gateway, which tells the parent when it is ready."""

    def __init__(self, application: GatewayApplication, parent: Control) -> None:
        self._parent = parent
        self._application = application
        self.start_up, self.drain, self.stop = application.start_up, application.drain, application.stop

    async def run(self) -> None:
        """Runs until cancelled."""
        self._parent.say(control.READY)
        await self._application.run()


async def _live(application: Announced, parent: Control) -> None:
    """Lives as any process of ours does; only that the parent, instead of a signal, says when to stop."""
    stop = StopRequests()
    hearing = asyncio.create_task(_hear(parent, stop))
    try:
        # The parent ends Envoy at the word, so it is said when all is closed: spans that wait would be lost otherwise.
        parent.say(control.ENDED, status=await lifecycle.live(application, stop))
    finally:
        hearing.cancel()
        await parent.close()


async def _hear(parent: Control, stop: StopRequests) -> None:
    async for message in parent.hear():
        if message["word"] == control.DRAIN:
            stop.received.set()


app = Inside()
