"""What the gateway's core and the worker take of the store, beside the token log and the queue."""

from collections.abc import Collection, Sequence
from typing import Protocol

from tokenrelay.clock import PeerClock
from tokenrelay.store.records import Record
from tokenrelay.store.values import (
    Accepted,
    Append,
    Claim,
    Elsewhere,
    Finish,
    Outcome,
    QueueEntry,
    ReaderLease,
    Requeue,
    Submission,
    WriteResults,
)
from tokenrelay.v1 import generation_pb2


class GatewayStore(Protocol):
    """Generations as a gateway sees them; Generations says what each method does."""

    clock: PeerClock

    async def submit(
        self, submission: Submission, *, reader: str | None = None, lease_ms: int = 0, patience: float | None = None
    ) -> Accepted: ...

    async def renew_readers(
        self, reader: str, lease_ms: int, ids: Sequence[str], *, tenant: str = ..., patience: float | None = None
    ) -> list[ReaderLease | None]: ...

    async def leave(self, reader: str, generation_id: str) -> None: ...

    async def cancel(
        self, generation_id: str, *, tenant: str = ..., patience: float | None = None
    ) -> generation_pb2.GenerationState.ValueType: ...

    async def read_record(self, generation_id: str, *, tenant: str = ..., patience: float | None = None) -> Record: ...

    async def is_unbroken(self, generation_id: str, *, patience: float | None = None) -> bool: ...


class WorkerStore(Protocol):
    """Attempts at generations as a worker makes them; Attempts says what each method does."""

    clock: PeerClock

    async def claim(
        self,
        model: str,
        fingerprint: str,
        worker: str,
        wanted: Sequence[tuple[QueueEntry, str]],
        served: Collection[str] = (),
    ) -> list[Claim | Elsewhere | None]: ...

    async def write(self, appends: Sequence[Append], finishes: Sequence[Finish] = ()) -> WriteResults: ...

    async def renew(self, owned: Sequence[tuple[str, str]]) -> list[Outcome]: ...

    async def requeue(self, model: str, owned: Sequence[Requeue]) -> list[Outcome]: ...
