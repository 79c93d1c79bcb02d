"""The worker's connection to its engine service: waits until it serves, asks what it is, and opens sessions."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from tokenrelay import client_certificate
from tokenrelay.backoff import Backoff
from tokenrelay.client_certificate import ClientFiles
from tokenrelay.engine.v1 import engine_service_pb2, engine_service_pb2_grpc
from tokenrelay.errors import EngineUnavailableError
from tokenrelay.start_up import SettingError
from tokenrelay.status import from_status

log = structlog.get_logger(__name__)

SERVICE = "tokenrelay.engine.v1.EngineService"
FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 1.0  # seconds between tries
CALL_SECONDS = 5.0  # for a health check or a description


START_BYTES = 16 * 1024 * 1024  # of starts that go out in one message, unless a single one is larger

Call = grpc.aio.StreamStreamCall  # of RunSession


class EngineLostError(Exception):
    """The session with the engine service is over.

    Attributes:
        in_order: whether the engine service ended it by itself, and so has not died.
    """

    def __init__(self, message: str, *, in_order: bool = False) -> None:
        super().__init__(message)
        self.in_order = in_order


class EngineLink:
    """A channel to one engine service.

    Args:
        address: host:port.
        keepalive_seconds: see WorkerSettings.engine_keepalive_seconds.
        tls: how it is called over TLS; None: in plain text.

    Raises:
        SettingError: a file of tls cannot be used.
    """

    def __init__(self, address: str, keepalive_seconds: float, tls: ClientFiles | None = None) -> None:
        self._address = address
        self._tls = tls
        self._shown = tls.contents() if tls is not None else None
        milliseconds = round(keepalive_seconds * 1000)
        self._options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", milliseconds),
            ("grpc.keepalive_timeout_ms", milliseconds),
            ("grpc.http2.ping_timeout_ms", milliseconds),  # without it, an unanswered ping is waited for a minute
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            *(tls.options if tls is not None else ()),
        ]
        self._open()

    def _open(self) -> None:
        if self._shown is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=self._options)
        else:
            shown = client_certificate.credentials(self._shown)
            self._channel = grpc.aio.secure_channel(self._address, shown, options=self._options)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._engine = engine_service_pb2_grpc.EngineServiceStub(self._channel)

    async def _take_up_new_files(self) -> None:
        """Opens the channel anew if its files have changed. No session is open meanwhile; that one would keep its own."""
        if self._tls is None:
            return
        try:
            found = self._tls.contents()
        except SettingError as error:
            log.warning("certificate refused, the old one stays", reason=str(error))
            return
        if found != self._shown:
            self._shown = found
            await self._channel.close()
            self._open()

    async def close(self) -> None:
        await self._channel.close()

    async def wait_until_serving(self) -> engine_service_pb2.DescribeEngineResponse:
        """Returns the engine's description as soon as it serves; says once what it waits for."""
        announced, backoff = False, Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        while True:
            await self._take_up_new_files()
            try:
                if await self._check_health():
                    return await self._engine.DescribeEngine(engine_service_pb2.DescribeEngineRequest(), timeout=CALL_SECONDS)
                reason = "it is not serving yet"
            except grpc.aio.AioRpcError as error:
                # What gRPC says of a handshake that fails helps whoever looks for the wrong certificate.
                reason = error.code().name if self._tls is None else f"{error.code().name}: {error.details()}"
            if not announced:
                log.warning("waiting for the engine service", address=self._address, reason=reason)
                announced = True
            await asyncio.sleep(backoff.next_delay())

    async def is_serving(self) -> bool:
        """Tells whether the engine service says that it takes generations."""
        try:
            return await self._check_health()
        except grpc.aio.AioRpcError:
            return False

    async def has_died(self, instance: str, patience: float) -> bool:
        """Tells whether an engine service's process is known to have died.

        It has if nobody listens at its address, or another process does. One that is cut off, or too busy to answer, counts
        as alive, and so does one that has not been told apart when the patience, in seconds, is over.
        """
        try:
            async with asyncio.timeout(patience):
                while True:
                    gone = await self._is_gone(instance)
                    if gone is not None:
                        return gone
                    await asyncio.sleep(FIRST_BACKOFF)
        except TimeoutError:
            return False

    async def _is_gone(self, instance: str) -> bool | None:
        """Asks once; None if that tells nothing."""
        try:
            await _knock(self._address)
            description = await self._engine.DescribeEngine(engine_service_pb2.DescribeEngineRequest(), timeout=CALL_SECONDS)
        except ConnectionRefusedError:
            return True
        except OSError:
            return None
        except grpc.aio.AioRpcError as error:
            # One that says so has only begun to load, so it is not the one that had a session.
            return True if _reason(error) == EngineUnavailableError.reason else None
        return bool(description.instance != instance)

    async def _check_health(self) -> bool:
        answer = await self._health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @asynccontextmanager
    async def session(self) -> AsyncIterator["EngineSession"]:
        """Opens a session; its end cancels what it has begun."""
        call = self._engine.RunSession()
        session = EngineSession(call)
        sending = asyncio.create_task(session.send())
        try:
            yield session
        finally:
            sending.cancel()
            call.cancel()
            # Whatever became of it was reported by frames().
            await asyncio.gather(sending, return_exceptions=True)


async def _knock(address: str) -> None:
    """Connects, and leaves again.

    Raises:
        ConnectionRefusedError: nobody listens.
        OSError: something else is wrong.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    for position, (*_, place) in enumerate(found):
        try:
            _, writer = await asyncio.open_connection(*place[:2])
        except ConnectionRefusedError:
            if position == len(found) - 1:
                raise
        else:
            writer.close()
            return


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Returns ErrorInfo.reason of a failed call, empty if it failed on its way."""
    status = rpc_status.from_call(error)
    return "" if status is None else from_status(status).reason


def _no_commands() -> engine_service_pb2.RunSessionRequest:
    return engine_service_pb2.RunSessionRequest(takes_continuations=True)


class EngineSession:
    """Commands go out merged, as fast as the connection takes them; frames come in."""

    def __init__(self, call: "Call[engine_service_pb2.RunSessionRequest, engine_service_pb2.RunSessionResponse]") -> None:
        self._call = call
        self._starts: deque[engine_service_pb2.StartGeneration] = deque()
        self._commands = _no_commands()
        self._wake = asyncio.Event()
        self._failure: Exception | None = None

    def start(self, generation: engine_service_pb2.StartGeneration) -> None:
        """Has a generation started."""
        self._starts.append(generation)
        self._wake.set()

    def cancel(self, key: int) -> None:
        """Has a generation cancelled; nothing more comes of it once the engine has read this."""
        for generation in self._starts:
            if generation.key == key:
                # It has not gone out, and sent after its cancel it would run to its end for nobody.
                self._starts.remove(generation)
                return
        self._commands.cancelled_keys.append(key)
        self._wake.set()

    def acknowledge(self, frame: int) -> None:
        """Tells that a frame is in the log."""
        self._commands.acknowledged_frame = frame
        self._wake.set()

    async def send(self) -> None:
        """Sends commands until cancelled, or until the session breaks, which frames() reports."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._call.write(self._next_commands())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call is over, and says why in frames()
        except Exception as error:
            # Without this the session would go on and nothing would reach the engine: generations that are neither started
            # nor cancelled, with leases that are renewed for ever.
            log.exception("commands cannot be sent to the engine service")
            self._failure = error
            self._call.cancel()

    def _next_commands(self) -> engine_service_pb2.RunSessionRequest:
        """Returns what is to be sent next: of the starts as many as fit into one message, and everything else."""
        commands, self._commands = self._commands, _no_commands()
        size = 0
        while self._starts and (size == 0 or size + self._starts[0].ByteSize() <= START_BYTES):
            size += self._starts[0].ByteSize()
            commands.starts.append(self._starts.popleft())
        if self._starts:
            self._wake.set()
        return commands

    async def frames(self) -> AsyncIterator[engine_service_pb2.RunSessionResponse]:
        """Yields frames.

        Raises:
            EngineLostError: the session broke.
        """
        try:
            async for frame in self._call:
                yield frame
        except grpc.aio.AioRpcError as error:
            raise EngineLostError(f"{error.code().name}: {error.details()}") from error
        except asyncio.CancelledError:
            # grpc raises this where somebody waits for a call that send() has cancelled, too.
            this_task = asyncio.current_task()
            if self._failure is None or (this_task is not None and this_task.cancelling()):
                raise
            raise EngineLostError("commands could not be sent") from self._failure
        raise EngineLostError("the engine service ended the session", in_order=True)
