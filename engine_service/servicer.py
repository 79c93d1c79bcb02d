"""The internal contract: describes the engine and serves workers' sessions."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import structlog
from grpc_status import rpc_status

from engine_service.engines import Engine
from engine_service.frames import Frames
from engine_service.session import Session
from engine_service.watchdog import Progress
from tokenrelay.engine.v1 import engine_service_pb2, engine_service_pb2_grpc
from tokenrelay.errors import DrainingError, EngineUnavailableError, InternalError, TokenrelayError
from tokenrelay.metrics import EngineMetrics
from tokenrelay.status import to_status
from tokenrelay.telemetry import Tracing

log = structlog.get_logger(__name__)


class EngineServicer(engine_service_pb2_grpc.EngineServiceServicer):
    """Serves an engine once it is ready."""

    def __init__(
        self, engine: Engine, frames_in_flight: int, tracing: Tracing, metrics: EngineMetrics, progress: Progress
    ) -> None:
        self._engine = engine
        self._progress = progress
        self._frames_in_flight = frames_in_flight
        self._tracing = tracing
        self._metrics = metrics
        self._description: engine_service_pb2.DescribeEngineResponse | None = None
        self._instance = secrets.token_hex(8)
        self._sessions: dict[Session, Frames] = {}
        self._draining = False

    def be_ready(self, description: engine_service_pb2.DescribeEngineResponse) -> None:
        """Serves from now on."""
        description.instance = self._instance
        self._description = description

    async def drain(self) -> None:
        """Refuses new sessions and generations, and returns when the open ones have ended and their workers know it."""
        self._draining = True
        sessions = dict(self._sessions)
        for session in sessions:
            session.drain()
        for session, frames in sessions.items():
            await session.wait_until_idle()
            # The last generation's end is in a frame that may not have left yet.
            await frames.wait_until_acknowledged()

    def dismiss(self) -> None:
        """Ends all sessions in good order, so that their workers take what is open elsewhere and know that nothing died."""
        for frames in self._sessions.values():
            frames.close()

    async def DescribeEngine(
        self, request: engine_service_pb2.DescribeEngineRequest, context: Any
    ) -> engine_service_pb2.DescribeEngineResponse:
        if self._description is None:
            raise EngineUnavailableError("the engine is still loading", retry_after=1.0)
        return self._description

    async def RunSession(
        self, request_iterator: AsyncIterator[engine_service_pb2.RunSessionRequest], context: Any
    ) -> AsyncIterator[engine_service_pb2.RunSessionResponse]:
        if self._description is None:
            await _abort(context, EngineUnavailableError("the engine is still loading", retry_after=1.0))
        if self._draining:
            await _abort(context, DrainingError("this engine service is stopping", retry_after=1.0))
        frames = Frames(self._frames_in_flight, self._metrics, self._progress)
        session = Session(self._engine, frames, self._tracing, self._metrics, self._progress)
        self._sessions[session] = frames
        peer = context.peer()  # asked for once: after the call's end grpc crashes on it
        log.info("session opened", peer=peer)
        obeying = asyncio.create_task(session.obey(request_iterator))
        obeying.add_done_callback(lambda _: frames.close())
        try:
            while (frame := await frames.next()) is not None:
                yield frame
        finally:
            del self._sessions[session]
            error = await _outcome(obeying)
            # The call may be cancelled right now; what its generations hold in the engine must be freed all the same.
            await asyncio.shield(session.close())
            log.info("session closed", peer=peer)
        if error is not None:
            # Else the worker would take it for an end in good order and try the same again, for ever.
            error_id = secrets.token_hex(16)
            log.error("session failed", peer=peer, error_id=error_id, exc_info=error)
            await _abort(context, InternalError.logged_as(error_id))


async def _abort(context: Any, error: TokenrelayError) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


async def _outcome(obeying: "asyncio.Task[None]") -> Exception | None:
    """Ends the task that takes a worker's commands; returns the error that it had ended with before, if any."""
    obeying.cancel()
    await asyncio.wait({obeying})
    if obeying.cancelled():
        return None
    error = obeying.exception()
    return error if isinstance(error, Exception) else None
