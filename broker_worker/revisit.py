"""Looks again at entries that were read and that wait for something else than room in the engine."""

import asyncio

import structlog

from broker_worker.peers import Peers
from broker_worker.read_ahead import ReadAhead
from tokenrelay.errors import TokenrelayError
from tokenrelay.store import keys
from tokenrelay.store.queue import EntryState, PendingName, Queue
from tokenrelay.store.values import QueueEntry

log = structlog.get_logger(__name__)

INTERVAL = 1.0  # seconds between looks


class Revisit:
    """Forgets what another worker has taken or what has ended, and claims what nobody else can go on with any more."""

    def __init__(self, *, queue: Queue, model: str, peers: Peers, read_ahead: ReadAhead) -> None:
        self._queue = queue
        self._model = model
        self._peers = peers
        self._read_ahead = read_ahead

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look_once()
            except TokenrelayError as error:
                log.debug("waiting entries are not looked at", reason=str(error))

    async def look_once(self) -> None:
        """Looks at suspects, which may have waited for long enough, and at what was left to other engines."""
        waiting = self._read_ahead.queue
        suspects = waiting.suspects
        if suspects:
            there = {entry for entry, _ in await self._still_waiting(suspects)}
            for entry in suspects:
                if entry not in there:
                    waiting.forget(entry)
            self._read_ahead.report()
        elsewhere = self._read_ahead.elsewhere
        if elsewhere:
            still = await self._still_waiting(elsewhere)
            served = self._peers.fingerprints
            # An entry whose engine is served by nobody any more is claimed here: that ends it, if it cannot go on.
            self._read_ahead.revise_elsewhere(
                gone=set(elsewhere) - {entry for entry, _ in still},
                again={entry for entry, fingerprint in still if fingerprint not in served},
            )

    async def _still_waiting(self, entries: list[QueueEntry]) -> list[tuple[QueueEntry, str | None]]:
        """Returns those of some entries that may still be claimed, with the fingerprint that their tokens ask for."""
        found = []
        for shard in self._queue.shards:
            names = [PendingName(one.queue, one.entry) for one in entries if keys.shard_of_ours(one.generation_id) == shard]
            found += await self._queue.look_up(self._model, shard, names) if names else []
        return [(one.entry, one.fingerprint) for one in found if one.state is EntryState.WAITING]
