"""The API keys that this gateway knows: looked up in Redis once for all calls that come with a key at the same time.

What Redis said counts for a while. While Redis is away, keys that are known go on counting for longer, and nobody else does.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tokenrelay.errors import StoreUnavailableError, UnavailableError
from tokenrelay.store.identities import Identities, StoredKey, Tenant

REMEMBERED = 10_000  # keys that are there, and apart from them as many that are not, so that strangers push nobody out
LOOKED_UP_TOGETHER = 64  # so that strangers with invented keys cannot take all of Redis' time
WAITING = 1000  # look-ups of strangers that wait for their turn; further ones are refused
PATIENCE_SECONDS = 0.5  # how long a call with a key that is known waits for Redis to say it again


@dataclass(frozen=True)
class Durations:
    """How long what Redis said counts, in seconds.

    Attributes:
        known: for a key that is there.
        unknown: for one that is not.
        outage: for one that was there, while Redis is away.
        patience: how long a call with a key that is not known waits for Redis.
    """

    known: float
    unknown: float
    outage: float
    patience: float


@dataclass(frozen=True)
class Identity:
    """A key and its tenant, as Redis had them."""

    key: StoredKey
    tenant: Tenant


class KnownKeys:
    """Looks keys up, and remembers."""

    def __init__(self, identities: Identities, durations: Durations) -> None:
        self._identities = identities
        self._durations = durations
        self._known: OrderedDict[str, tuple[Identity, float]] = OrderedDict()  # with our monotonic instant of the answer
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._looking: dict[str, asyncio.Task[Identity | None]] = {}
        self._turns = asyncio.Semaphore(LOOKED_UP_TOGETHER)
        self._waiting = 0

    async def find(self, key_id: str) -> Identity | None:
        """Returns a key with its tenant; None if there is no such key.

        Raises:
            UnavailableError: it is not known, and Redis cannot be asked now.
        """
        now = time.monotonic()
        if now - self._unknown.get(key_id, -self._durations.unknown) < self._durations.unknown:
            return None
        if key_id in self._known:
            identity, at = self._known[key_id]
            if now - at < self._durations.known:
                return identity
            if now - at < self._durations.outage:
                return await self._find_again(key_id, identity)
        try:
            return await asyncio.wait_for(asyncio.shield(self.look_up(key_id)), self._durations.patience)
        except (StoreUnavailableError, TimeoutError):
            raise UnavailableError("keys cannot be checked now", retry_after=1.0) from None

    async def _find_again(self, key_id: str, before: Identity) -> Identity | None:
        """Asks Redis again; says what it said before if it does not answer now."""
        is_asked = key_id in self._looking  # by a call that waits already, so that not each one does
        looking = self.look_up(key_id)
        try:
            return await asyncio.wait_for(asyncio.shield(looking), 0 if is_asked else PATIENCE_SECONDS)
        except (StoreUnavailableError, TimeoutError):
            return before

    def look_up(self, key_id: str) -> "asyncio.Task[Identity | None]":
        """Returns the one look-up of a key that is under way; it raises StoreUnavailableError if Redis is away.

        Raises:
            UnavailableError: too many strangers wait already.
        """
        looking = self._looking.get(key_id)
        if looking is None:
            if self._waiting >= WAITING and key_id not in self._known:
                raise UnavailableError(f"too many calls with unknown keys (limit {WAITING})", retry_after=1.0)
            looking = self._looking[key_id] = asyncio.create_task(self._ask(key_id))
            looking.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to see it
        return looking

    async def _ask(self, key_id: str) -> Identity | None:
        try:
            async with self._turn(key_id):
                found = await self._identities.find(key_id, self._durations.patience)
            identity = None if found is None else Identity(*found)
            # A change that was heard of meanwhile has taken this look-up out, since it may have come before the change.
            if self._looking.get(key_id) is asyncio.current_task():
                self._remember(key_id, identity)
            return identity
        finally:
            if self._looking.get(key_id) is asyncio.current_task():
                del self._looking[key_id]

    @asynccontextmanager
    async def _turn(self, key_id: str) -> AsyncIterator[None]:
        """Waits until it is a key's turn; one that is known does not wait behind strangers."""
        if key_id in self._known:
            yield
            return
        self._waiting += 1
        try:
            async with self._turns:
                yield
        finally:
            self._waiting -= 1

    def _remember(self, key_id: str, identity: Identity | None) -> None:
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)
        if identity is None:
            self._unknown[key_id] = time.monotonic()
        else:
            self._known[key_id] = (identity, time.monotonic())
        for table in (self._known, self._unknown):
            if len(table) > REMEMBERED:
                table.popitem(last=False)

    def doubt(self, key_id: str) -> None:
        """Has a key looked up anew before it counts again; while Redis is away it still does."""
        self._looking.pop(key_id, None)
        self._unknown.pop(key_id, None)
        if key_id in self._known:
            identity, at = self._known[key_id]
            self._known[key_id] = (identity, min(at, time.monotonic() - self._durations.known))

    def of_tenant(self, tenant: str | None) -> list[str]:
        """Returns the keys that may be a tenant's, as far as they are known or looked up; None: those of all tenants."""
        known = [key_id for key_id, (identity, _) in self._known.items() if tenant in (None, identity.tenant.name)]
        return [*known, *self._looking, *self._unknown]
