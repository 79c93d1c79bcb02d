"""One worker's session: starts and cancels come in, frames go out, and when it ends so do its generations."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog
from opentelemetry.context import Context

from engine_service.engines import Engine, EngineRequest, Measured, Run
from engine_service.frames import Frames
from engine_service.sink import GenerationOutput
from engine_service.watchdog import Progress
from tokenrelay import conventions, telemetry
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import DrainingError, InternalError, TokenrelayError
from tokenrelay.metrics import EngineMetrics
from tokenrelay.telemetry import Tracing
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


class _Generation:
    """A generation of a session: its output, the task that begins it, and its run."""

    def __init__(self, output: GenerationOutput) -> None:
        self.output = output
        self.beginning: asyncio.Task[None] | None = None
        self.run: Run | None = None


class Session:
    """What one worker has begun. Keys are the worker's."""

    def __init__(self, engine: Engine, frames: Frames, tracing: Tracing, metrics: EngineMetrics, progress: Progress) -> None:
        self._engine = engine
        self._frames = frames
        self._tracing = tracing
        self._metrics = metrics
        self._progress = progress
        self._generations: dict[int, _Generation] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_until_idle(self) -> None:
        """Returns once no generation is open."""
        await self._idle.wait()

    def drain(self) -> None:
        """Refuses new generations from now on."""
        self._draining = True

    async def obey(self, requests: AsyncIterator[engine_service_pb2.RunSessionRequest]) -> None:
        """Takes the worker's commands until it has no more."""
        async for request in requests:
            for start in request.starts:
                self._start(start)
            for key in request.cancelled_keys:
                self._cancel(key)
            self._frames.acknowledge(request.acknowledged_frame)

    def _start(self, start: engine_service_pb2.StartGeneration) -> None:
        request = EngineRequest(
            start.generation_id,
            generation_pb2.GenerationSpec.FromString(start.spec),
            {emitted.index: emitted for emitted in start.emitted},
        )
        context = telemetry.context_of(start.traceparent)
        output = GenerationOutput(start.key, request, self._frames, lambda: self._ended(start.key, context))
        generation = self._generations[start.key] = _Generation(output)
        self._idle.clear()
        self._metrics.running.inc()
        self._progress.began()
        generation.beginning = asyncio.create_task(self._begin(generation, request))

    async def _begin(self, generation: _Generation, request: EngineRequest) -> None:
        output = generation.output
        try:
            if self._draining:
                raise DrainingError("this engine service is stopping")  # noqa: TRY301  # told like the engine's refusals
            generation.run = await self._engine.begin(request, output)
            output.end_if_complete()
        except TokenrelayError as error:
            output.fail(error)
        except Exception:
            log.exception("generation could not be begun", generation_id=request.generation_id)
            output.fail(InternalError.logged_as(request.generation_id))
        if output.over and generation.run is not None:
            await generation.run.cancel()  # it was cancelled meanwhile

    def _cancel(self, key: int) -> None:
        generation = self._generations.get(key)
        if generation is not None:
            self._metrics.cancelled.inc()
            generation.output.cancel()
            if generation.run is not None:
                self._own(asyncio.create_task(generation.run.cancel()))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _ended(self, key: int, context: Context) -> None:
        generation = self._generations.pop(key)
        self._metrics.running.dec()
        self._progress.ended()
        if not self._generations:
            self._idle.set()
        if generation.beginning is not None:
            self._own(generation.beginning)
        self._trace(generation.output.measured, context)

    def _trace(self, measured: Measured, context: Context) -> None:
        """Records the engine's hops as spans, now that their ends are known."""
        if not self._tracing.enabled or not measured.queued_ns:
            return
        tokens = {
            conventions.GEN_AI_INPUT_TOKENS: measured.prompt_tokens,
            conventions.GEN_AI_CACHED_TOKENS: measured.cached_tokens,
        }
        for name, start, end, attributes in (
            (conventions.SPAN_ENGINE_QUEUE, measured.queued_ns, measured.scheduled_ns, None),
            (conventions.SPAN_PREFILL, measured.scheduled_ns, measured.first_token_ns, tokens),
            (conventions.SPAN_DECODE, measured.first_token_ns, measured.last_token_ns, None),
        ):
            if start and end:
                self._tracing.past_span(
                    name, telemetry.wall_ns(start), telemetry.wall_ns(end), parent=context, attributes=attributes
                )

    async def close(self) -> None:
        """Cancels what is left."""
        for key in list(self._generations):
            self._cancel(key)
        for task in list(self._ending):
            with suppress(Exception):
                await task
