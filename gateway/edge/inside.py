"""What Envoy's module loads: the gateway's application, on the module's one event loop.

The parent process (gateway.edge.envoy) starts Envoy, and speaks with this side over gateway.edge.control.
"""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
from pydantic import Field

from gateway.app import GatewayApplication
from gateway.edge import control
from gateway.edge.asgi_server import AsgiServer
from gateway.edge.control import Control
from gateway.edge.departures import Departures
from gateway.settings import GatewaySettings
from tokenrelay import logs
from tokenrelay import settings as all_settings
from tokenrelay.lifecycle import FAILED
from tokenrelay.start_up import StartUpError

log = structlog.get_logger(__name__)

Events = Callable[..., Awaitable[Any]]


class InsideSettings(GatewaySettings):
    """A gateway's settings, and what its parent process hands over."""

    edge_control: int = Field(description="the file descriptor of this end of the socket pair")
    edge_departures: int = Field(description="the file descriptor to read from who has left")


class Inside:
    """The application's life in Envoy: begins with the module's lifespan, ends when the parent says so."""

    def __init__(self) -> None:
        self._server: AsgiServer | None = None
        self._life: asyncio.Task[None] | None = None

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
        departures = Departures()
        departures.watch(settings.edge_departures)
        parent = await Control.open(socket.socket(fileno=settings.edge_control))
        server = self._server = AsgiServer(settings, departures)
        life = self._life = asyncio.create_task(_live(GatewayApplication(settings, server.build), parent))
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait({life, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if life.done():
            await send({"type": "lifespan.startup.failed", "message": "see the gateway's log"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # the shutdown
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life
        await send({"type": "lifespan.shutdown.complete"})


async def _live(application: GatewayApplication, parent: Control) -> None:
    """Starts, runs, and drains when told; tells the parent how far it is. As tokenrelay.lifecycle does for a process."""
    try:
        await application.start_up()
        # As in any process of ours: what a start leaves behind is kept out of every later search for garbage.
        gc.collect()
        gc.freeze()
        parent.say(control.READY)
        await _run_until_drained(application, parent)
        parent.say(control.DRAINED)
    except StartUpError as error:
        parent.say(control.FAILED, status=error.status, text=str(error))
    except Exception:
        log.exception("failed")
        parent.say(control.FAILED, status=FAILED, text="")
    finally:
        await application.stop()
        await parent.close()


async def _run_until_drained(application: GatewayApplication, parent: Control) -> None:
    running = asyncio.create_task(application.run())
    told = asyncio.create_task(_drain_when_told(application, parent))
    try:
        await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, told):
            if task.done():
                task.result()
    finally:
        for task in (running, told):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _drain_when_told(application: GatewayApplication, parent: Control) -> None:
    async for message in parent.hear():
        if message["word"] == control.DRAIN:
            await application.drain()
            return


app = Inside()
