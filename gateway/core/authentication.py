"""Who calls: finds the caller of a key, and ends the calls of a key that counts no more."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from gateway.core.known_keys import Durations, Identity, KnownKeys
from gateway.settings import GatewaySettings
from tokenrelay.errors import UnauthenticatedError, UnavailableError
from tokenrelay.identity.api_keys import ApiKey, KeyKind, NoKeyError
from tokenrelay.identity.callers import Caller
from tokenrelay.store.identities import Identities
from tokenrelay.store.redis.connection import RedisConnection

log = structlog.get_logger(__name__)

BEARER = "bearer "


def of(settings: GatewaySettings, connection: RedisConnection) -> "KeyAuthentication | None":
    """Returns what the settings say; None if everybody may call."""
    if settings.auth == "none":
        return None
    durations = Durations(
        known=settings.auth_known_seconds,
        unknown=settings.auth_unknown_seconds,
        outage=settings.auth_outage_seconds,
        patience=settings.call_patience_seconds,
    )
    return KeyAuthentication(Identities(connection), durations)


@dataclass(eq=False)
class _Open:
    """A call that a key has opened."""

    caller: Caller
    task: asyncio.Task[object]
    is_revoked: bool = False


class KeyAuthentication:
    """Takes API keys for callers."""

    def __init__(self, identities: Identities, durations: Durations) -> None:
        self._identities = identities
        self._recheck_seconds = durations.known
        self._keys = KnownKeys(identities, durations)
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
        found = await self._keys.find(key.key_id)
        if found is None or not key.fits(found.key.digest) or not self._counts(found):
            raise UnauthenticatedError
        return Caller(
            tenant=found.tenant.name,
            key_id=key.key_id,
            scopes=found.key.scopes,
            models=_both(found.key.models, found.tenant.models),
            tenant_quota=found.tenant.quota,
            key_quota=found.key.quota,
        )

    def _counts(self, identity: Identity) -> bool:
        return not identity.tenant.suspended and identity.key.counts_at(self._identities.now_us())

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
            kind, _, name = (change or "").partition(" ")
            # None: some changes may have been missed.
            concerned = [name] if kind == "key" else self._keys.of_tenant(name if kind == "tenant" else None)
            for key_id in concerned:
                self._keys.doubt(key_id)
            await self._check(concerned if kind == "key" else list(self._open))

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._recheck_seconds)
            await self._check(list(self._open))

    async def _check(self, key_ids: Sequence[str]) -> None:
        """Ends the open calls of those keys that count no more; leaves them all while Redis is away."""
        for key_id in key_ids:
            if key_id not in self._open:
                continue
            try:
                found = await self._keys.look_up(key_id)
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
