"""One worker's session: starts and cancels come in, frames go out, and when it ends so do its generations."""

import asyncio
from collections.abc import AsyncIterator

import structlog
from google.protobuf.message import DecodeError
from opentelemetry.context import Context

from engine_service.engines import Engine, EngineRequest, Measured, Run
from engine_service.frames import Frames
from engine_service.sink import GenerationOutput
from engine_service.watchdog import Progress
from tokenrelay import conventions, telemetry
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import DrainingError, InternalError, InvalidRequestError, TokenrelayError
from tokenrelay.metrics import EngineMetrics
from tokenrelay.telemetry import Tracing
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

CLOSE_SECONDS = 10.0  # for the engine to free what a session leaves behind


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
        """Takes the worker's commands until it has no more.

        Raises:
            ValueError: the worker uses a key twice.
        """
        async for request in requests:
            self._frames.takes_continuations = request.takes_continuations
            for start in request.starts:
                self._start(start)
            for key in request.cancelled_keys:
                self._cancel(key)
            self._frames.acknowledge(request.acknowledged_frame)

    def _start(self, start: engine_service_pb2.StartGeneration) -> None:
        if start.key in self._generations:
            raise ValueError(f"the worker starts {start.generation_id} under key {start.key}, which another generation has")
        log.debug("generation received", generation_id=start.generation_id, key=start.key, attempts_before=bool(start.emitted))
        request = EngineRequest(start.generation_id, _spec(start), {emitted.index: emitted for emitted in start.emitted})
        context = telemetry.context_of(start.traceparent)
        output = GenerationOutput(start.key, request, self._frames, lambda: self._ended(start.key, context))
        generation = self._generations[start.key] = _Generation(output)
        self._idle.clear()
        self._metrics.running.inc()
        self._progress.began()
        # A task of its own: tokenizing a long prompt must not hold up the commands that follow, a cancel among them.
        generation.beginning = asyncio.create_task(self._begin(generation, request))

    async def _begin(self, generation: _Generation, request: EngineRequest) -> None:
        output = generation.output
        try:
            if self._draining:
                raise DrainingError("this engine service is stopping")  # noqa: TRY301  # told like the engine's refusals
            if request.spec.WhichOneof("prompt") is None:
                raise InvalidRequestError.of_field("spec.prompt", "is missing")  # noqa: TRY301
            generation.run = await self._engine.begin(request, output)
            output.end_if_complete()
        except TokenrelayError as error:
            output.fail(error)
        except Exception:
            log.exception("generation could not be begun", generation_id=request.generation_id)
            output.fail(InternalError.logged_as(request.generation_id))
        if output.over and generation.run is not None:
            # It was cancelled before there was a run to cancel, see _cancel. One that has ended is not harmed.
            await generation.run.cancel()

    def _cancel(self, key: int) -> None:
        generation = self._generations.get(key)
        if generation is not None:
            self._metrics.cancelled.inc()
            # Before the engine is told, so that nothing that it still emits reaches the worker.
            generation.output.cancel()
            if generation.run is not None:
                self._own(asyncio.create_task(generation.run.cancel()))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)  # the event loop itself keeps no task alive
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the engine did not free a generation", exc_info=error)

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
        if not self._tracing.enabled or measured.queued_ns is None:
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
            if start is not None and end is not None:
                self._tracing.past_span(
                    name, telemetry.wall_ns(start), telemetry.wall_ns(end), parent=context, attributes=attributes
                )

    async def close(self) -> None:
        """Cancels what is left, and waits a while for the engine to free it."""
        for key in list(self._generations):
            self._cancel(key)
        if self._ending:
            _, left = await asyncio.wait(self._ending, timeout=CLOSE_SECONDS)
            if left:
                log.warning("the engine still frees what a session has left", generations=len(left))


def _spec(start: engine_service_pb2.StartGeneration) -> generation_pb2.GenerationSpec:
    """Returns what to generate; an empty one if it cannot be read, which the engine refuses."""
    try:
        return generation_pb2.GenerationSpec.FromString(start.spec)
    except DecodeError:
        log.error("a generation's spec cannot be read", generation_id=start.generation_id)  # noqa: TRY400  # no more to say
        return generation_pb2.GenerationSpec()
