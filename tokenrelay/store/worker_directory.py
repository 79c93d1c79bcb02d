"""Who serves what: workers announce themselves, gateways read it."""

from collections.abc import Iterable
from dataclasses import dataclass

from tokenrelay.store import keys
from tokenrelay.store.foreign import BROKEN, SharedKeys, report_aside
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.scripting import NamedScript
from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import model_service_pb2

ANNOUNCE_INTERVAL = 1.0  # seconds
SILENCE_MS = 5_000  # a worker that has been silent for this long does not count as live
FORGET_MS = 60_000  # a model whose last worker has been gone for this long is queued for no more


@dataclass(frozen=True)
class ServedModel:
    """A model that was served at some time.

    Attributes:
        model: the description, with counts summed over its live workers.
        absent_ms: how long it has had no live worker; 0 if it has one.
    """

    model: model_service_pb2.Model
    absent_ms: int

    @property
    def is_live(self) -> bool:
        return self.absent_ms == 0

    @property
    def is_expected_back(self) -> bool:
        """Whether its last worker left so lately that another one may come."""
        return self.absent_ms <= FORGET_MS


class WorkerDirectory:
    """The registry's two hashes in Redis."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._shared = SharedKeys(connection)
        self._announce = NamedScript.load("announce")

    async def announce(self, announcement: store_pb2.WorkerAnnouncement) -> None:
        """Notes a worker and its model, or what has changed about them."""
        worker, model = announcement.worker_id, announcement.model.name
        await self._run(worker, model, announcement.SerializeToString())

    async def leave(self, worker_id: str, model: str) -> None:
        """Takes a worker out."""
        await self._run(worker_id, model, b"")

    async def _run(self, worker_id: str, model: str, announcement: bytes) -> None:
        arguments = {"worker": worker_id, "model": model, "announcement": announcement, "keep_ms": FORGET_MS}
        (reply,) = await self._connection.run_together([self._announce.call(keys.REGISTRY_PREFIX, arguments)], patience=0)
        for key, name in zip(reply.items[::2], reply.items[1::2], strict=True):
            report_aside(key.decode(errors="replace"), name)

    async def live_workers(self) -> dict[str, str]:
        """Returns the workers that have announced themselves lately, each with its engine's fingerprint."""
        return {worker.worker_id: worker.model.fingerprint for worker in await self._read_live()}

    async def live_fingerprints(self, model: str) -> set[str]:
        """Returns the fingerprints of the engines that serve a model, those of draining workers included."""
        return {worker.model.fingerprint for worker in await self._read_live() if worker.model.name == model}

    async def read(self) -> dict[str, ServedModel]:
        """Returns all models that were ever served, by name."""
        live: dict[str, list[store_pb2.WorkerAnnouncement]] = {}
        for worker in await self._read_live():
            if not worker.draining:
                live.setdefault(worker.model.name, []).append(worker)
        models = {}
        for name, seen_ms, announcement in await self._read("models"):
            workers = live.get(name, [])
            absent_ms = 0 if workers else max(1, self._now_ms() - seen_ms)
            models[name] = ServedModel(_combine(announcement.model, workers), absent_ms)
        return models

    async def _read_live(self) -> list[store_pb2.WorkerAnnouncement]:
        oldest = self._now_ms() - SILENCE_MS
        return [announcement for _, seen_ms, announcement in await self._read("workers") if seen_ms >= oldest]

    async def _read(self, name: str) -> list[tuple[str, int, store_pb2.WorkerAnnouncement]]:
        """Reads one of the hashes: each field, when it was written, and what it says. What is none of ours is passed over."""
        key = f"{keys.REGISTRY_PREFIX}{name}"
        values = await self._shared.read(keys.REGISTRY_PREFIX, {key: "hash"}, lambda: self._connection.hash(key)) or {}
        found = []
        for field, value in values.items():
            try:
                found.append((field.decode(), *_parse(value)))
            except BROKEN as error:
                self._shared.report_once(key, field, error)
        return found

    def _now_ms(self) -> int:
        return self._connection.clock.now() // 1_000_000


def _parse(value: bytes) -> tuple[int, store_pb2.WorkerAnnouncement]:
    seen_ms, _, announcement = value.partition(b" ")
    return int(seen_ms), store_pb2.WorkerAnnouncement.FromString(announcement)


def _combine(last_seen: model_service_pb2.Model, workers: Iterable[store_pb2.WorkerAnnouncement]) -> model_service_pb2.Model:
    """Returns a model's description with the counts of its live workers."""
    combined = model_service_pb2.Model()
    combined.CopyFrom(last_seen)
    combined.workers = combined.slots = combined.running = 0
    for worker in workers:
        combined.workers += 1
        combined.slots += worker.model.slots
        combined.running += worker.model.running
    return combined
