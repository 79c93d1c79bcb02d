"""The gateway as Envoy with our application inside: this process starts Envoy, hands it signals, and ends with it."""

import asyncio
import json
import os
import socket
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from gateway.edge import control, envoy_configuration, listening
from gateway.edge.control import Control
from gateway.edge.envoy_admin import Admin, AdminError
from gateway.edge.envoy_configuration import Place
from gateway.edge.envoy_process import EnvoyProcess
from gateway.edge.envoy_tls import KINDS, LOOK_SECONDS, SecretRefusedError, Secrets
from gateway.edge.installation import Installation, NotInstalledError
from gateway.settings import GatewaySettings
from tokenrelay import settings as all_settings
from tokenrelay.lifecycle import FAILED
from tokenrelay.serving.certificates import Certificates
from tokenrelay.start_up import SettingError, StartUpError

log = structlog.get_logger(__name__)

LISTENING_SECONDS = 0.01  # between two looks whether Envoy listens


class NotStartedError(StartUpError):
    """The application inside Envoy cannot start. It has said why; the exit status is its own."""

    is_said = True

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status  # type: ignore[misc]  # not every one of this class has the same


class EnvoyEndedError(Exception):
    """Envoy, or the application inside, has ended, and nobody told it to."""


class EnvoyGateway:
    """One gateway: this process, and Envoy as its child."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_draining = False
        self._status = FAILED  # the application's, unless it has told another
        self.port = settings.port

    async def start_up(self) -> None:
        """Returns when the application is ready, as far as it ever waits.

        Raises:
            SettingError: Envoy cannot run here, its address cannot be had, or a certificate cannot be used.
            NotStartedError: the application cannot start.
        """
        installation = self._find()
        self._certificates = Certificates(self._settings) if self._settings.tls_certificate is not None else None
        held = listening.hold(self._settings.host, self._settings.port)
        self._resources.callback(held.close)
        self.port = held.port
        self._envoy = await self._start_envoy(installation, held)
        hearing = asyncio.create_task(self._hear())
        self._resources.callback(hearing.cancel)
        waits = [asyncio.create_task(self._wait_until_ready()), asyncio.create_task(self._check_certificate())]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    async def _wait_until_ready(self) -> None:
        if not await self._happens(self._ready):
            # An Envoy that somebody kills has said nothing above.
            why = "see above" if self._ended.is_set() else f"see above; Envoy ended with {self._envoy.how_it_ended}"
            raise NotStartedError(f"the gateway inside Envoy does not start; {why}", self._status)
        # Envoy listens only a moment after the application has said that calls may come.
        while not (self._envoy.ended.is_set() or await self._listens()):  # noqa: ASYNC110  # Envoy tells nobody by itself
            await asyncio.sleep(LISTENING_SECONDS)

    async def _listens(self) -> bool:
        started = "listener_manager.workers_started"
        try:
            return bool((await self._admin.statistics(started)).get(started))
        except AdminError:
            return False

    def _find(self) -> Installation:
        try:
            return Installation.find()
        except NotInstalledError as error:
            raise SettingError("TOKENRELAY_EDGE", f"is envoy, but {error}; use grpcio") from None

    async def _start_envoy(self, installation: Installation, held: listening.Held) -> EnvoyProcess:
        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="tokenrelay-gateway-")))
        self._admin = Admin(folder / "admin.sock")
        self._secrets = Secrets(folder, self._admin.statistics)
        ours, envoys = socket.socketpair()
        told, tells = os.pipe()  # who has left: Envoy writes at one end, and the application in it reads at the other
        place = Place(
            address=held.address,
            port=held.port,
            module=installation.module,
            admin=self._admin.path,
            departures=f"/proc/self/fd/{tells}",
            transport_socket=self._transport_socket(),
        )
        configuration = folder / "envoy.json"
        configuration.write_text(json.dumps(envoy_configuration.configuration(self._settings, place)))
        given = os.environ  # noqa: TID251  # what this process was given is for the application inside
        environment = {
            **given,
            **all_settings.environment(self._settings),
            **installation.environment(given),
            "TOKENRELAY_PORT": str(held.port),
            "TOKENRELAY_EDGE_CONTROL": str(envoys.fileno()),
            "TOKENRELAY_EDGE_DEPARTURES": str(told),
        }
        try:
            envoy = EnvoyProcess(
                binary=installation.envoy,
                configuration=configuration,
                environment=environment,
                inherited=[envoys.fileno(), told, tells],
                drain_seconds=self._settings.drain_seconds,
            )
        finally:
            envoys.close()
            os.close(told)
            os.close(tells)
        self._resources.push_async_callback(envoy.stop)
        self._control = await Control.open(ours)
        self._resources.push_async_callback(self._control.close)
        return envoy

    def _transport_socket(self) -> dict[str, Any] | None:
        if self._certificates is None:
            return None
        self._secrets.write(self._certificates.current)
        return self._secrets.transport_socket(self._certificates.current)

    async def _check_certificate(self) -> None:
        """Returns once Envoy has the first certificate, which does not wait for Redis as the application does."""
        while self._certificates is not None:
            try:
                await self._secrets.taken()
            except SecretRefusedError:
                raise SettingError(
                    "TOKENRELAY_TLS_CERTIFICATE", f"is of a kind that Envoy does not take; use {KINDS}"
                ) from None
            except AdminError:
                await asyncio.sleep(LOOK_SECONDS)  # Envoy does not listen yet
            else:
                return

    async def _hear(self) -> None:
        async for message in self._control.hear():
            if message["word"] == control.READY:
                self._ready.set()
            elif message["word"] == control.ENDED:
                self._status = message["status"]
                self._ended.set()

    async def _happens(self, event: asyncio.Event) -> bool:
        """Waits for an event of the application; returns whether it has come before the application, or Envoy, ended."""
        waits = [asyncio.create_task(one.wait()) for one in (event, self._ended, self._envoy.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            for wait in waits:
                wait.cancel()

    async def run(self) -> None:
        """Returns when Envoy, or the application inside, has ended.

        Raises:
            EnvoyEndedError: nobody asked for that.
        """
        async with asyncio.TaskGroup() as tasks:
            # Also while draining, since new connections come until the end.
            watching = tasks.create_task(self._certificates.watch(self._secrets.replace)) if self._certificates else None
            await self._happens(self._envoy.ended)
            if watching is not None:
                watching.cancel()
        if self._is_draining:
            return  # as it was told to; drain() sees to it
        raise EnvoyEndedError(self._envoy.how_it_ended if self._envoy.ended.is_set() else f"status {self._status}")

    async def drain(self) -> None:
        """Has the application drain, and Envoy tell clients to connect elsewhere."""
        self._is_draining = True
        self._control.say(control.DRAIN)
        sending_away = asyncio.create_task(self._send_clients_away())
        try:
            if not await self._happens(self._ended):
                raise EnvoyEndedError(self._envoy.how_it_ended)
        finally:
            sending_away.cancel()

    async def _send_clients_away(self) -> None:
        """Has every answer from now on come with a GOAWAY, after which a client opens another connection for its next call.

        Not before the lame-duck time is over, because a client that connects again at once may come back to this gateway.
        Envoy goes on listening: what comes then is refused with a word of ours, which tells more than a closed port.
        """
        await asyncio.sleep(self._settings.lame_duck_seconds)
        try:
            await self._admin.do("drain_listeners", graceful="", skip_exit="")
        except AdminError as error:
            # Clients are still told by the application, call by call.
            log.warning("envoy does not send its clients away", reason=str(error))

    async def stop(self) -> None:
        """Ends Envoy, and closes everything."""
        await self._resources.aclose()
