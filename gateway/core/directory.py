"""What is served, as this gateway knows it: the registry, read every second."""

import asyncio
import time

import structlog

from tokenrelay.errors import InvalidRequestError, ModelNotFoundError, NoWorkerError, StoreUnavailableError
from tokenrelay.identity.callers import Caller
from tokenrelay.metrics import GatewayMetrics
from tokenrelay.store.queue import Queue
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.values import Depth
from tokenrelay.store.worker_directory import ServedModel, WorkerDirectory

log = structlog.get_logger(__name__)

READ_INTERVAL = 1.0  # seconds
FRESH = 0.1  # seconds for which what was read counts as new; calls may ask as often as they like


class ModelDirectory:
    """The models, and whether Redis answers."""

    def __init__(self, *, connection: RedisConnection, workers: WorkerDirectory, queue: Queue, metrics: GatewayMetrics) -> None:
        self._connection = connection
        self._workers = workers
        self._queue = queue
        self._metrics = metrics
        self._models: dict[str, ServedModel] = {}
        self._depths: dict[str, Depth] = {}
        self._refreshed = 0.0
        self._reading: asyncio.Task[None] | None = None
        self.store_answers = False

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(READ_INTERVAL)

    async def refresh(self) -> None:
        """Reads the registry, unless that was done a moment ago; what is known stays when Redis is away."""
        if self._reading is None:
            if time.monotonic() - self._refreshed < FRESH:
                return
            self._reading = asyncio.create_task(self._read())
        # Whoever asks meanwhile waits for the same reading, and one that leaves does not end it for the others.
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            await self._connection.read_clock()
            self._models = await self._workers.read()
            for name in self._models:
                await self._measure(name)
            self.store_answers = True
        except StoreUnavailableError:
            self.store_answers = False
        finally:
            self._refreshed, self._reading = time.monotonic(), None
        self._metrics.store_up.set(self.store_answers)

    async def _measure(self, name: str) -> None:
        depth = self._depths[name] = await self._queue.depth(name)
        self._metrics.queued.labels(name).set(depth.generations)
        self._metrics.queued_bytes.labels(name).set(depth.bytes)
        self._metrics.queue_age.labels(name).set(await self._queue.age(name) if depth.generations else 0)
        self._metrics.workers.labels(name).set(self._models[name].model.workers)

    async def listed(self, caller: Caller) -> list[tuple[ServedModel, int]]:
        """Returns what available() does, as it is now.

        Raises:
            StoreUnavailableError: Redis cannot be asked.
        """
        await self.refresh()
        if not self.store_answers:
            raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0)
        return self.available(caller)

    def available(self, caller: Caller) -> list[tuple[ServedModel, int]]:
        """Returns the caller's models that are served or expected back, by name, each with how many generations wait."""
        return [
            (served, self._depths.get(name, Depth(0, 0)).generations)
            for name, served in sorted(self._models.items())
            if served.is_expected_back and caller.may_use(name)
        ]

    async def resolve(self, name: str, caller: Caller, *, may_wait: bool) -> ServedModel:
        """Returns the model of a request.

        Args:
            name: as the client gave it; empty for the only one.
            caller: to whom a model that it may not use is none.
            may_wait: whether the request may wait for a worker to come back, however long it is gone.

        Raises:
            InvalidRequestError: no name was given, and there are several models.
            ModelNotFoundError: no worker has served it.
            NoWorkerError: its last worker has been gone for too long.
            StoreUnavailableError: it is not known, and Redis cannot be asked.
        """
        served = self._find(name, caller)
        if served is None or not served.is_live:
            # A worker may have come within the last second.
            await self.refresh()
            served = self._find(name, caller)
        if served is None:
            if not self.store_answers:
                raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0)
            if not name:
                raise NoWorkerError("no model is served yet", retry_after=1.0)
            known = ", ".join(sorted(filter(caller.may_use, self._models))) or "none"
            raise ModelNotFoundError(f"spec.model: no worker has served {name[:200]!r}; known: {known}")
        if not served.is_expected_back and not may_wait:
            raise NoWorkerError(
                f"the last worker of model {served.model.name!r} left {served.absent_ms // 1000} s ago",
                retry_after=2.0,
            )
        return served

    def _find(self, name: str, caller: Caller) -> ServedModel | None:
        if name:
            return self._models.get(name) if caller.may_use(name) else None
        everything = [served for known, served in self._models.items() if caller.may_use(known)]
        live = [served for served in everything if served.is_live]
        candidates = live or [served for served, _ in self.available(caller)] or everything
        if len(candidates) > 1:
            names = ", ".join(served.model.name for served in candidates)
            raise InvalidRequestError.of_field("spec.model", f"is required, since several are served: {names}")
        return candidates[0] if candidates else None
