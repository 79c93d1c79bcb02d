"""Attempts: what a worker does with generations while it owns them. Claim, append, finish, renew, requeue."""

from collections.abc import Collection, Sequence
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from tokenrelay.errors import DataLossError
from tokenrelay.store import ends, terminals
from tokenrelay.store.records import Record, as_mapping
from tokenrelay.store.redis.scripts import ScriptCall
from tokenrelay.store.scripting import NamedScript, Scripts, exceptions, in_order
from tokenrelay.store.values import (
    DAMAGED,
    Append,
    Claim,
    Elsewhere,
    Finish,
    Outcome,
    QueueEntry,
    Requeue,
    StoreLimits,
    WriteResults,
    outcome_of,
)
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


class Attempts:
    """The scripts of an owner. Errors are those of RedisConnection.

    Every method may be called again with the same arguments after an unknown outcome.
    """

    def __init__(self, scripts: Scripts, limits: StoreLimits) -> None:
        self.clock = scripts.connection.clock
        self._connection = scripts.connection
        self._scripts = scripts
        self._lease_ms = limits.lease_ms
        self._retention_ms = limits.retention_ms
        self._claim = NamedScript.load("claim")
        self._append = NamedScript.load("append")
        self._finish = NamedScript.load("finish")
        self._renew = NamedScript.load("renew")
        self._requeue = NamedScript.load("requeue")
        self._terminals = {**terminals.of_time(), "log_lost": terminals.log_lost().SerializeToString()}

    async def claim(
        self,
        model: str,
        fingerprint: str,
        worker: str,
        wanted: Sequence[tuple[QueueEntry, str]],
        served: Collection[str] = (),
    ) -> list[Claim | Elsewhere | None]:
        """Makes a worker the owner of read entries.

        Args:
            model: whose queue they are of.
            fingerprint: that of the worker's engine.
            worker: its id.
            wanted: the entries, each with a nonce.
            served: the fingerprints of the engines that live workers serve.

        Returns:
            For each entry the claim; Elsewhere if its tokens come from another engine among those that are served: the entry
            stays pending on this worker until a worker with that engine adopts it; None for what this worker may not have.
        """
        arguments = {
            "model": model,
            "fingerprint": fingerprint,
            "worker": worker,
            "lease_ms": self._lease_ms,
            "retention_ms": self._retention_ms,
            **self._terminals,
            "served": "\n".join(served),
        }
        items = [
            {"id": entry.generation_id, "nonce": nonce, "queue": entry.queue, "entry": entry.entry} for entry, nonce in wanted
        ]
        replies = await self._scripts.run_batch(self._claim, arguments, items)
        claims: list[Claim | Elsewhere | None] = []
        damaged: list[Finish] = []
        for (entry, _), reply in zip(wanted, replies, strict=True):
            try:
                claims.append(_claim_of(entry, reply))
            except DataLossError as error:
                log.error("a claimed generation is damaged", generation_id=entry.generation_id, reason=str(error))  # noqa: TRY400
                last = int(as_mapping(reply[3])[b"last"])  # the script has checked it
                damaged.append(Finish(entry.generation_id, reply[1].decode(), last, terminals.log_lost()))
                claims.append(None)
        await self.write([], damaged)
        return claims

    async def write(self, appends: Sequence[Append], finishes: Sequence[Finish] = ()) -> WriteResults:
        """Appends a frame, then ends owned generations, over one round trip."""
        if not appends and not finishes:
            return WriteResults([], [], 0)
        appending = self._scripts.batches_of_rows(self._append, {"lease_ms": self._lease_ms}, appends)
        finishing = self._scripts.batches(
            self._finish, {"retention_ms": self._retention_ms}, [_finish_item(one) for one in finishes]
        )
        replies = await self._connection.run_together([batch.call for batch in (*appending, *finishing)])
        appended = [Outcome.OK] * len(appends)
        for position, reply in exceptions(appending, replies[: len(appending)]):
            appended[position] = outcome_of(reply, appends[position].generation_id)
        return WriteResults(appended, _outcomes(finishes, in_order(finishing, replies[len(appending) :])), replies[-1].at_us)

    async def renew(self, owned: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Renews the leases on generations, each with its fence."""
        replies = await self._scripts.run_batch(self._renew, {"lease_ms": self._lease_ms}, _owned_items(owned))
        return [outcome_of(reply, generation_id) for (generation_id, _), reply in zip(owned, replies, strict=True)]

    def renewals(self, owned: Sequence[tuple[str, str]]) -> list[ScriptCall]:
        """Returns what renew would run, for a thread that runs it by itself."""
        batches = self._scripts.batches(self._renew, {"lease_ms": self._lease_ms}, _owned_items(owned))
        return [batch.call for batch in batches]

    async def requeue(self, model: str, owned: Sequence[Requeue]) -> list[Outcome]:
        """Puts owned generations back to the front of the model's queue; DEAD for one that became a dead letter instead."""
        arguments = {"model": model, "retention_ms": self._retention_ms}
        replies = await self._scripts.run_batch(self._requeue, arguments, [_requeue_item(one) for one in owned])
        return _outcomes(owned, replies)


def _outcomes(items: Sequence[Finish | Requeue], replies: Sequence[bytes]) -> list[Outcome]:
    return [outcome_of(reply, item.generation_id) for item, reply in zip(items, replies, strict=True)]


def _claim_of(entry: QueueEntry, reply: Any) -> Claim | Elsewhere | None:
    if reply == DAMAGED:
        log.error("a queued generation is damaged; its entry is removed", generation_id=entry.generation_id)
        return None
    if reply[0] == b"ELSEWHERE":
        log.debug("left to another engine", generation_id=entry.generation_id, fingerprint=reply[1].decode())
        return Elsewhere(reply[1].decode())
    if reply[0] == b"OVER" and reply[1]:
        ends.report(entry.generation_id, reply[1])
    if reply[0] != b"CLAIMED":
        return None
    record = Record.parse(entry.generation_id, as_mapping(reply[3]))
    try:
        # The engine service must not get what it cannot read: the generation would end its session, again and again.
        generation_pb2.GenerationSpec.FromString(record.spec)
    except DecodeError as error:
        raise DataLossError("its spec is damaged") from error
    if not record.spec:
        raise DataLossError("its spec is missing")
    log.debug("claimed", generation_id=entry.generation_id, epoch=reply[2], last=record.last)
    return Claim(reply[1].decode(), reply[2], record)


def _finish_item(one: Finish) -> dict[str, Any]:
    terminal = one.terminal.SerializeToString()
    return {
        "id": one.generation_id,
        "fence": one.fence,
        "last": one.last,
        "terminal_state": one.terminal.state,
        "terminal": terminal,
        "prompt": one.terminal.usage.prompt_tokens if one.terminal.HasField("usage") else "",
        "cached": one.terminal.usage.cached_tokens if one.terminal.HasField("usage") else "",
    }


def _owned_items(owned: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"id": generation_id, "fence": fence} for generation_id, fence in owned]


def _requeue_item(one: Requeue) -> dict[str, Any]:
    return {
        "id": one.generation_id,
        "fence": one.fence,
        "queue": "",
        "entry": "",
        "died": 1 if one.engine_died else "",
        "terminal": "" if one.terminal is None else one.terminal.SerializeToString(),
        "letter": "" if one.letter is None else one.letter.SerializeToString(),
    }
