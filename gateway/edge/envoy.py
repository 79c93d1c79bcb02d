"""The gateway as Envoy with our application inside: this process starts Envoy, hands it signals, and ends with it."""

import asyncio
import json
import os
import socket
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from gateway.edge import control, envoy_configuration, listening
from gateway.edge.control import Control
from gateway.edge.envoy_configuration import Place
from gateway.edge.envoy_process import EnvoyProcess
from gateway.edge.installation import Installation
from gateway.settings import GatewaySettings
from tokenrelay import settings as all_settings
from tokenrelay.lifecycle import FAILED
from tokenrelay.start_up import StartUpError

log = structlog.get_logger(__name__)


class NotStartedError(StartUpError):
    """The application inside Envoy cannot start; the text and the exit status are its own."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status  # type: ignore[misc]  # not every one of this class has the same


class EnvoyEndedError(Exception):
    """Envoy, or the application inside, has ended, and nobody told it to."""


class EnvoyGateway:
    """One gateway: this process, and Envoy as its child."""

    def __init__(self, settings: GatewaySettings, installation: Installation) -> None:
        self._settings = settings
        self._installation = installation
        self._resources = AsyncExitStack()
        self._said: dict[str, asyncio.Event] = {word: asyncio.Event() for word in (control.READY, control.DRAINED)}
        self._failure: NotStartedError | None = None
        self.port = settings.port

    async def start_up(self) -> None:
        """Returns when the application is ready, as far as it ever waits."""
        held = listening.hold(self._settings.host, self._settings.port)
        self._resources.callback(held.close)
        self.port = held.port
        self._envoy = await self._start_envoy(held)
        hearing = asyncio.create_task(self._hear())
        self._resources.callback(hearing.cancel)
        try:
            await self._wait_for(control.READY)
        except EnvoyEndedError:
            raise self._failure or NotStartedError(f"envoy has ended: {self._envoy.how_it_ended}", FAILED) from None

    async def _start_envoy(self, held: listening.Held) -> EnvoyProcess:
        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="tokenrelay-gateway-")))
        ours, envoys = socket.socketpair()
        told, tells = os.pipe()  # who has left: Envoy writes at one end, and the application in it reads at the other
        place = Place(
            address=held.address,
            port=held.port,
            module=self._installation.module,
            admin=folder / "admin.sock",
            departures=f"/proc/self/fd/{tells}",
        )
        configuration = folder / "envoy.json"
        configuration.write_text(json.dumps(envoy_configuration.configuration(self._settings, place)))
        environment = {
            **os.environ,  # noqa: TID251  # what this process was given is for the application inside
            **all_settings.environment(self._settings),
            **self._installation.environment(),
            "TOKENRELAY_PORT": str(held.port),
            "TOKENRELAY_EDGE_CONTROL": str(envoys.fileno()),
            "TOKENRELAY_EDGE_DEPARTURES": str(told),
        }
        try:
            envoy = EnvoyProcess(self._installation.envoy, configuration, environment, [envoys.fileno(), told, tells])
        finally:
            envoys.close()
            os.close(told)
            os.close(tells)
        self._resources.push_async_callback(envoy.stop)
        self._control = await Control.open(ours)
        self._resources.push_async_callback(self._control.close)
        return envoy

    async def _hear(self) -> None:
        async for message in self._control.hear():
            word = message["word"]
            if word in self._said:
                self._said[word].set()
            elif word == control.FAILED:
                self._failure = NotStartedError(message["text"] or "see above", message["status"])

    async def _wait_for(self, word: str) -> None:
        """Waits for a word of the application.

        Raises:
            EnvoyEndedError: it has ended instead.
        """
        said = asyncio.create_task(self._said[word].wait())
        ended = asyncio.create_task(self._envoy.ended.wait())
        try:
            await asyncio.wait({said, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not said.done():
                raise EnvoyEndedError(self._envoy.how_it_ended)
        finally:
            said.cancel()
            ended.cancel()

    async def run(self) -> None:
        """Raises EnvoyEndedError when Envoy has ended."""
        await self._envoy.ended.wait()
        raise EnvoyEndedError(self._envoy.how_it_ended)

    async def drain(self) -> None:
        """Has the application drain."""
        self._control.say(control.DRAIN)
        await self._wait_for(control.DRAINED)

    async def stop(self) -> None:
        """Ends Envoy, and closes everything."""
        await self._resources.aclose()
