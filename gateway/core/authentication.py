"""Who calls: finds the caller of a key, keeps it for a while, and ends the calls of a key that is revoked.

Redis is asked once for all calls that come with a key at the same time. What it said counts for `known_seconds`; a change is
heard at once over a channel. While Redis is away, keys that are known go on for `outage_seconds`, and nobody else is let in.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog

from gateway.settings import GatewaySettings
from tokenrelay.errors import StoreUnavailableError, UnauthenticatedError, UnavailableError
from tokenrelay.identity.api_keys import ApiKey, KeyKind, NoKeyError
from tokenrelay.identity.callers import Caller
from tokenrelay.store.identities import Identities, StoredKey, Tenant
from tokenrelay.store.redis.connection import RedisConnection

log = structlog.get_logger(__name__)

REMEMBERED = 10_000  # keys that are known, and as many that are known not to be there
LOOKED_UP_TOGETHER = 64  # so that strangers with invented keys cannot take all of Redis' time
WAITING = 1000  # calls that wait for their turn; further ones are refused
PATIENCE_SECONDS = 0.5  # how long a call with a key that is known waits for Redis to say it again
BEARER = "bearer "

Found = tuple[StoredKey, Tenant] | None


@dataclass(frozen=True)
class AuthenticationLimits:
    """How long what Redis said counts, in seconds.

    Attributes:
        known_seconds: for a key that is there.
        unknown_seconds: for one that is not.
        outage_seconds: for one that was there, while Redis is away.
        patience_seconds: how long a call with a key that is not known waits for Redis.
    """

    known_seconds: float
    unknown_seconds: float
    outage_seconds: float
    patience_seconds: float


def of(settings: GatewaySettings, connection: RedisConnection) -> "KeyAuthentication | None":
    """Returns what the settings say; None if everybody may call."""
    if settings.auth == "none":
        return None
    limits = AuthenticationLimits(
        known_seconds=settings.auth_known_seconds,
        unknown_seconds=settings.auth_unknown_seconds,
        outage_seconds=settings.auth_outage_seconds,
        patience_seconds=settings.call_patience_seconds,
    )
    return KeyAuthentication(Identities(connection), limits)


@dataclass
class _Known:
    """What Redis said of a key, and our monotonic instant of it."""

    found: Found
    at: float


@dataclass(eq=False)
class _Open:
    """A call that a key has opened."""

    caller: Caller
    task: asyncio.Task[object]
    is_revoked: bool = False


class KeyAuthentication:
    """Takes API keys for callers."""

    def __init__(self, identities: Identities, limits: AuthenticationLimits) -> None:
        self._identities = identities
        self._limits = limits
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._looking: dict[str, asyncio.Task[Found]] = {}
        self._turns = asyncio.Semaphore(LOOKED_UP_TOGETHER)
        self._waiting = 0
        self._open: dict[str, set[_Open]] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """Returns who calls.

        Args:
            authorization: the header of that name; None: there is none.

        Raises:
            UnauthenticatedError: there is no key, or none that counts.
            UnavailableError: the key is not known, and Redis cannot be asked now.
        """
        key = _key(authorization)
        found = await self._find(key.key_id)
        if found is None or not key.fits(found[0].digest) or not self._counts(found):
            raise UnauthenticatedError
        stored, tenant = found
        return Caller(
            tenant=tenant.name,
            key_id=key.key_id,
            scopes=stored.scopes,
            models=_both(stored.models, tenant.models),
            tenant_quota=tenant.quota,
            key_quota=stored.quota,
        )

    def _counts(self, found: tuple[StoredKey, Tenant]) -> bool:
        stored, tenant = found
        return not tenant.suspended and stored.counts_at(self._identities.now_us())

    async def _find(self, key_id: str) -> Found:
        known, now = self._known.get(key_id), time.monotonic()
        if known is not None:
            age = now - known.at
            if age < (self._limits.unknown_seconds if known.found is None else self._limits.known_seconds):
                return known.found
            if known.found is not None and age < self._limits.outage_seconds:
                return await self._find_again(key_id, known.found)
        try:
            return await asyncio.wait_for(asyncio.shield(self._look_up(key_id)), self._limits.patience_seconds)
        except (StoreUnavailableError, TimeoutError):
            raise UnavailableError("keys cannot be checked now", retry_after=1.0) from None

    async def _find_again(self, key_id: str, before: Found) -> Found:
        """Asks Redis again; says what it said before if it does not answer now."""
        is_asked = key_id in self._looking  # for longer than this call has been here, so that one of many waits, not each
        looking = self._look_up(key_id)
        try:
            return await asyncio.wait_for(asyncio.shield(looking), 0 if is_asked else PATIENCE_SECONDS)
        except (StoreUnavailableError, TimeoutError):
            return before

    def _look_up(self, key_id: str) -> "asyncio.Task[Found]":
        """Returns the one look-up of a key that is under way."""
        looking = self._looking.get(key_id)
        if looking is None:
            if self._waiting >= WAITING and key_id not in self._known:
                raise UnavailableError(f"too many calls with unknown keys (limit {WAITING})", retry_after=1.0)
            looking = self._looking[key_id] = asyncio.create_task(self._ask(key_id))
            looking.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to see it
        return looking

    async def _ask(self, key_id: str) -> Found:
        try:
            async with self._turn(key_id):
                found = await self._identities.find(key_id, self._limits.patience_seconds)
            # A change that was heard of meanwhile has taken this look-up out, since it may have come before the change.
            if self._looking.get(key_id) is asyncio.current_task():
                self._remember(key_id, found)
            return found
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

    def _remember(self, key_id: str, found: Found) -> None:
        self._known[key_id] = _Known(found, time.monotonic())
        self._known.move_to_end(key_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    @contextmanager
    def opened(self, caller: Caller) -> Iterator[None]:
        """Keeps the current task as a call of a caller, which ends when its key or its tenant may call no more.

        Raises:
            UnauthenticatedError: that has happened.
        """
        task = asyncio.current_task()
        assert task is not None
        call = _Open(caller, task)
        calls = self._open.setdefault(caller.key_id, set())
        calls.add(call)
        try:
            yield
        except asyncio.CancelledError:
            # Somebody else may have cancelled it too: a client that has left is not to be answered.
            if call.is_revoked and task.uncancel() == 0:
                raise UnauthenticatedError from None
            raise
        finally:
            calls.discard(call)
            if not calls:
                self._open.pop(caller.key_id, None)

    async def run(self) -> None:
        """Hears of changes, and looks again at the keys of open calls, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear())
            tasks.create_task(self._look_again())

    async def _hear(self) -> None:
        async for change in self._identities.changes():
            concerned = self._concerned(change)
            for key_id in concerned:
                self._doubt(key_id)
            await self._check(concerned)

    def _concerned(self, change: str | None) -> list[str]:
        """Returns the keys that a change may be about, of those that are known or looked up; None: some may be missed."""
        all_keys = {*self._known, *self._looking, *self._open}
        kind, _, name = (change or "").partition(" ")
        if kind == "key":
            return [name]
        if kind == "tenant":
            return [key_id for key_id in all_keys if self._may_be_of(key_id, name)]
        return list(all_keys)

    def _may_be_of(self, key_id: str, tenant: str) -> bool:
        known = self._known.get(key_id)
        return known is None or (known.found is not None and known.found[1].name == tenant)

    def _doubt(self, key_id: str) -> None:
        """Has a key looked up anew before it counts again; while Redis is away it still does."""
        self._looking.pop(key_id, None)
        known = self._known.get(key_id)
        if known is None:
            return
        if known.found is None:
            del self._known[key_id]
        else:
            known.at = min(known.at, time.monotonic() - self._limits.known_seconds)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._limits.known_seconds)
            await self._check(list(self._open))

    async def _check(self, key_ids: Sequence[str]) -> None:
        """Ends the open calls of those keys that count no more; leaves them all while Redis is away."""
        for key_id in key_ids:
            if key_id not in self._open:
                continue
            try:
                found = await self._look_up(key_id)
            except UnavailableError:
                continue  # by its age it will be looked at again
            if found is None or not self._counts(found):
                self._revoke(key_id)

    def _revoke(self, key_id: str) -> None:
        calls = [call for call in self._open.get(key_id, ()) if not call.is_revoked]
        log.info("open calls of a key end", key_id=key_id, calls=len(calls))
        for call in calls:
            call.is_revoked = True
            call.task.cancel()


def _key(authorization: str | None) -> ApiKey:
    """Returns the key of a header, judged by its form alone."""
    if authorization is None or not authorization[: len(BEARER)].lower() == BEARER:
        raise UnauthenticatedError
    try:
        key = ApiKey.parse(authorization[len(BEARER) :].strip())
    except NoKeyError:
        raise UnauthenticatedError from None
    if key.kind is not KeyKind.CALLS:
        raise UnauthenticatedError
    return key


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """Returns what two sets of models have in common; None stands for all."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
