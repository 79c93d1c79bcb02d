"""Dead letters: generations that were set aside because their engine died on them too often. Found, queued anew, dropped."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from tokenrelay.errors import GenerationNotFoundError
from tokenrelay.store import keys
from tokenrelay.store.assembly import Store
from tokenrelay.store.foreign import BROKEN, SharedKeys
from tokenrelay.store.log import PAGE
from tokenrelay.store.scripting import NamedScript
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Accepted, Submission
from tokenrelay.store.worker_directory import WorkerDirectory
from tokenrelay.v1 import generation_pb2

FIRST = "0-0"  # before all entries of a stream


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter, where it lies, and since when: microseconds of Redis' clock."""

    content: store_pb2.DeadLetter
    entry: str
    shard: int

    @property
    def generation_id(self) -> str:
        return self.content.generation_id

    @property
    def model(self) -> str:
        return self.content.job.model

    @property
    def died_us(self) -> int:
        return int(self.entry.partition("-")[0]) * 1000


class DeadLetters:
    """The streams of dead letters, one a model and shard. Errors are those of RedisConnection unless a method names others."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connection = store.connection
        self._registry = WorkerDirectory(store.connection)
        self._shared = SharedKeys(store.connection)
        self._discard = NamedScript.load("discard")

    async def all(self, model: str | None = None) -> list[DeadLetter]:
        """Returns the dead letters of a model, or of every model that was ever served, the oldest first."""
        models = [model] if model is not None else sorted(await self._registry.read())
        found = [letter for name in models for shard in self._store.shards async for letter in self._of(name, shard)]
        return sorted(found, key=lambda letter: letter.died_us)

    async def _of(self, model: str, shard: int) -> AsyncIterator[DeadLetter]:
        after = FIRST
        while True:
            key = keys.dead(model, shard)
            read = partial(self._connection.streams.range, key, after, PAGE)
            page = await self._shared.read(keys.prefix(shard), {key: "stream"}, read) or []
            for entry, fields in page:
                try:
                    yield DeadLetter(store_pb2.DeadLetter.FromString(fields[b"letter"]), entry, shard)
                except BROKEN as error:
                    self._shared.report_once(keys.dead(model, shard), entry.encode(), error)
            if len(page) < PAGE:
                return
            after = page[-1][0]

    async def find(self, generation_id: str) -> DeadLetter:
        """Returns a generation's dead letter.

        Raises:
            GenerationNotFoundError: it has none.
        """
        shard = keys.shard_of(generation_id)
        if shard is not None and shard in self._store.shards:
            for model in await self._registry.read():
                async for letter in self._of(model, shard):
                    if letter.generation_id == generation_id:
                        return letter
        raise GenerationNotFoundError(f"there is no dead letter of a generation {generation_id[:64]!r}")

    async def requeue(self, letter: DeadLetter) -> Accepted:
        """Queues a letter's spec as a new detached generation, which runs alone at first, and drops the letter.

        If this is done again because its outcome is unknown, it is the same new generation.

        Raises:
            QueueFullError, StoreFullError: as for any new generation.
        """
        content = letter.content
        now_us = self._connection.clock.now() // 1000
        job = store_pb2.Job(
            model=letter.model,
            n=content.job.n,
            received_at_us=now_us,
            enqueue_at_us=now_us,
            tenant=content.job.tenant,
            key_id=content.job.key_id,
        )
        submission = Submission(
            generation_id=keys.new_generation_id(letter.shard),
            job=job,
            spec=content.spec,
            request_hash=hashlib.sha256(content.spec).hexdigest(),
            idempotency_key=f"dead-letter {letter.generation_id}",
            queue_timeout_ms=None,
            time_limit_ms=None,
            policy=generation_pb2.DISCONNECT_POLICY_DETACH,
            grace_ms=0,
            suspect=True,
        )
        accepted = await self._store.generations.submit(submission)
        await self.drop(letter)
        return accepted

    async def drop(self, letter: DeadLetter) -> None:
        """Deletes a letter."""
        await self._store.scripts.run(self._discard, letter.shard, {"model": letter.model, "entry": letter.entry})
