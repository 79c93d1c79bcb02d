"""Generations as gateways see them: accept, follow, cancel, look up."""

import json
import random
from collections.abc import Sequence
from typing import Any

import structlog

from tokenrelay.errors import DataLossError, IdempotencyConflictError, QueueFullError, QuotaExceededError, StoreFullError
from tokenrelay.identity.callers import NO_TENANT
from tokenrelay.identity.quotas import Allowance, TokensLeft
from tokenrelay.store import ends, keys, terminals
from tokenrelay.store.records import Record, as_mapping
from tokenrelay.store.redis.errors import UnexpectedReplyError
from tokenrelay.store.scripting import NamedScript, Scripts
from tokenrelay.store.shards import damaged, not_found
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import DAMAGED, Accepted, ReaderLease, StoreLimits, Submission
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

NEVER = -1  # as submit.lua says how long to wait: what is asked for fits at no time
UNKNOWN_WAIT_SECONDS = 1.0  # where nobody can tell, because it depends on when others end
ANY_TENANT = "*"  # for whoever has been let in before; no tenant is named so


class Generations:
    """Accepts generations and keeps their readers' leases. Errors are those of RedisConnection unless a method names others.

    Every method may be called again with the same arguments after an unknown outcome.
    """

    def __init__(self, scripts: Scripts, limits: StoreLimits) -> None:
        self.clock = scripts.connection.clock
        self._connection = scripts.connection
        self._scripts = scripts
        self._limits = limits
        self._submit = NamedScript.load("submit")
        self._renew_readers = NamedScript.load("renew_readers")
        self._cancel = NamedScript.load("cancel")
        self._peek = NamedScript.load("peek")
        self._unbroken = NamedScript.load("unbroken")
        self._cancelled = terminals.cancelled().SerializeToString()

    async def submit(
        self, submission: Submission, *, reader: str | None = None, lease_ms: int = 0, patience: float | None = None
    ) -> Accepted:
        """Accepts a generation.

        Args:
            submission: what is to be accepted.
            reader: under which name a gateway reads it from now on; None: nobody does yet.
            lease_ms: how long that holds without renewal.
            patience: seconds to wait for Redis; None: the connection's.

        Raises:
            IdempotencyConflictError: the key stands for another request.
            QueueFullError: the model's queue has reached a bound.
            QuotaExceededError: the tenant or its key may not use more now.
            StoreFullError: Redis is above its watermark.
            DataLossError: the idempotency key stands for a damaged generation.
        """
        job, packed_job, limits = submission.job, submission.job.SerializeToString(), self._limits
        key = submission.idempotency_key
        arguments = {
            "id": submission.generation_id,
            "tenant": job.tenant,
            "key_id": job.key_id,
            "model": job.model,
            "n": job.n,
            "job": packed_job,
            "spec": submission.spec,
            "size": len(packed_job) + len(submission.spec),
            "request_hash": submission.request_hash,
            "idempotency": keys.idempotency_hash(key, job.tenant) if key else "",
            "queue_timeout_ms": submission.queue_timeout_ms,
            "time_limit_ms": submission.time_limit_ms,
            "policy": submission.policy,
            "grace_ms": submission.grace_ms,
            "reader": reader,
            "reader_lease_ms": lease_ms,
            "most_generations": limits.queued_generations,
            "most_bytes": limits.queued_bytes,
            "accept_below": limits.accept_below,
            "engine_deaths": 1 if submission.suspect else None,
            **_account(submission.allowance),
        }
        shard = keys.shard_of_ours(submission.generation_id)
        try:
            status, *details = await self._scripts.run(self._submit, shard, arguments, patience)
        except UnexpectedReplyError as error:
            raise DataLossError("the generation that the idempotency_key stands for is damaged in Redis") from error
        if status in (b"CREATED", b"JOINED"):
            log.debug("submitted", generation_id=details[0].decode(), status=status.decode())
            left = TokensLeft(*details[1:]) if len(details) > 1 else None
            return Accepted(details[0].decode(), status == b"CREATED", left)
        if status == b"CONFLICT":
            raise IdempotencyConflictError("idempotency_key: it belongs to another request")
        if status == b"FULL":
            raise _queue_full(details[0], details[1], limits, tells_counts=not job.tenant)
        if status == b"QUOTA":
            raise _quota_exceeded(job, *details)
        raise StoreFullError(
            f"Redis uses {details[0]} of {details[1]} bytes; new work is accepted below {limits.accept_below:.0%}",
            retry_after=5.0,
        )

    async def renew_readers(
        self, reader: str, lease_ms: int, ids: Sequence[str], *, tenant: str = ANY_TENANT, patience: float | None = None
    ) -> list[ReaderLease | None]:
        """Sets a gateway's reader lease on generations, or renews it; None for what is gone, or is another tenant's."""
        arguments = {
            "reader": reader,
            "tenant": tenant,
            "lease_ms": lease_ms,
            "retention_ms": self._limits.retention_ms,
            "cancelled": self._cancelled,
        }
        items = [{"id": generation_id} for generation_id in ids]
        replies = await self._scripts.run_batch(self._renew_readers, arguments, items, patience)
        leases = [_lease_of(generation_id, reply) for generation_id, reply in zip(ids, replies, strict=True)]
        for generation_id, lease in zip(ids, leases, strict=True):
            if lease is not None and lease.ended_here:
                ends.report(generation_id, lease.state)
        return leases

    async def leave(self, reader: str, generation_id: str) -> None:
        """Takes a gateway's reader lease away, which may start the generation's disconnect policy."""
        await self.renew_readers(reader, 0, [generation_id])

    async def cancel(
        self, generation_id: str, *, tenant: str = NO_TENANT, patience: float | None = None
    ) -> generation_pb2.GenerationState.ValueType:
        """Cancels a tenant's generation and returns where it stands; RUNNING means that its owner was told.

        Raises:
            GenerationNotFoundError: the tenant has none, or no longer.
            DataLossError: it is damaged.
        """
        arguments = {
            "id": generation_id,
            "tenant": tenant,
            "retention_ms": self._limits.retention_ms,
            "cancelled": self._cancelled,
        }
        shard = self._scripts.shards.of(generation_id)
        try:
            state, ended_here = await self._scripts.run(self._cancel, shard, arguments, patience)
        except UnexpectedReplyError as error:
            raise damaged(generation_id) from error
        if state == 0:
            raise not_found(generation_id)
        log.debug("cancel noted", generation_id=generation_id, state=state)
        if ended_here:
            ends.report(generation_id, state)
        return generation_pb2.GenerationState.ValueType(state)

    async def read_record(self, generation_id: str, *, tenant: str = NO_TENANT, patience: float | None = None) -> Record:
        """Returns the record of a tenant's generation.

        Raises:
            GenerationNotFoundError: the tenant has none, or no longer.
            DataLossError: it is damaged.
        """
        shard = self._scripts.shards.of(generation_id)
        try:
            (fields,) = await self._scripts.run(self._peek, shard, {"id": generation_id, "tenant": tenant}, patience)
        except UnexpectedReplyError as error:
            raise damaged(generation_id) from error
        if not fields:
            raise not_found(generation_id)
        return Record.parse(generation_id, as_mapping(fields))

    async def is_unbroken(self, generation_id: str, *, patience: float | None = None) -> bool:
        """Tells whether Redis is there without a gap since it accepted a generation.

        Only then its log is known to be all that there ever was: a failover or a crash may have taken the end.

        Raises:
            GenerationNotFoundError, DataLossError: as read_record.
        """
        record = await self.read_record(generation_id, tenant=ANY_TENANT, patience=patience)
        shard = self._scripts.shards.of(generation_id)
        (since_ms,) = await self._scripts.run(self._unbroken, shard, {"lease_ms": self._limits.lease_ms}, patience)
        return record.submitted_us // 1000 >= int(since_ms)


def _lease_of(generation_id: str, reply: Any) -> ReaderLease | None:
    if reply == DAMAGED:
        log.error("a generation's data in redis are damaged", generation_id=generation_id)
        return ReaderLease(generation_pb2.GENERATION_STATE_UNSPECIFIED, 0, 0, is_damaged=True)
    return None if reply == b"GONE" else ReaderLease(*reply)


def _account(allowance: Allowance | None) -> dict[str, Any]:
    """Returns the arguments that say what is judged and reserved."""
    if allowance is None:
        return {"limits": "[{}, {}]", "estimate": 0, "most_tokens": None}
    return {
        "limits": json.dumps([allowance.tenant.as_numbers(), allowance.key.as_numbers()]),
        "estimate": allowance.prompt_tokens,
        "most_tokens": allowance.most_tokens,
    }


def _quota_exceeded(job: store_pb2.Job, scope: bytes, name: bytes, limit: int, wait_ms: int) -> QuotaExceededError:
    whose, metric = scope.decode(), name.decode()
    retry_after: float | None = None if wait_ms == NEVER else UNKNOWN_WAIT_SECONDS if wait_ms < 0 else wait_ms / 1000
    fits = "; the request alone is more than that" if retry_after is None else ""
    return QuotaExceededError(
        f"the {whose}'s limit {metric} of {limit} is reached{fits}",
        retry_after=None if retry_after is None else retry_after * random.uniform(1.0, 1.1),  # noqa: S311  # jitter, no secret
        subject=f"tenant:{job.tenant}" if whose == "tenant" else f"key:{job.key_id}",
        metric=metric,
        limit=limit,
    )


def _queue_full(generations: int, size: int, limits: StoreLimits, *, tells_counts: bool) -> QueueFullError:
    """Returns the error of a full queue; one tenant is not told how much waits for others."""
    counts = f": {generations} of {limits.queued_generations} generations, {size} of {limits.queued_bytes} bytes"
    return QueueFullError(f"the model's queue is full{counts if tells_counts else ''}", retry_after=1.0)
