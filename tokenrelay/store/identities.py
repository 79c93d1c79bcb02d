"""Tenants and their keys in Redis: looked up by gateways, written by the operator's command alone."""

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

from tokenrelay.errors import InvalidRequestError, StoreUnavailableError
from tokenrelay.identity.callers import USUAL_SCOPES, Scope
from tokenrelay.identity.quotas import UNLIMITED, Quota
from tokenrelay.store import keys
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.scripting import NamedScript

TRIES = 20  # writes to the audit that others' writes may come before


class IdentityExistsError(InvalidRequestError):
    """There is already a tenant of that name."""


class IdentityMissingError(InvalidRequestError):
    """There is no such tenant or key."""


@dataclass(frozen=True)
class StoredKey:
    """What is known of a key. Instants are microseconds of Redis' clock; None: not, or never.

    Attributes:
        digest: see ApiKey.digest.
        name: what people call it.
        models: the models that it may use; None: all.
    """

    key_id: str
    digest: str
    tenant: str
    name: str = ""
    scopes: frozenset[Scope] = USUAL_SCOPES
    models: frozenset[str] | None = None
    quota: Quota = UNLIMITED
    created_us: int = 0
    expires_us: int | None = None
    revoked_us: int | None = None

    def counts_at(self, now_us: int) -> bool:
        """Tells whether the key opens anything at an instant."""
        return self.revoked_us is None and (self.expires_us is None or now_us < self.expires_us)


@dataclass(frozen=True)
class Tenant:
    """A team or product that others' generations are hidden from.

    Attributes:
        name: its id, in records and metrics.
        title: what people call it.
        suspended: whether its keys open nothing for now.
        models: the models that it may use; None: all.
    """

    name: str
    title: str = ""
    suspended: bool = False
    models: frozenset[str] | None = None
    quota: Quota = UNLIMITED
    created_us: int = 0


class Identities:
    """Looks keys up, and tells which have changed. Errors are those of RedisConnection."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def find(self, key_id: str, patience: float | None = None) -> tuple[StoredKey, Tenant] | None:
        """Returns a key and its tenant; None if there is no such key."""
        # By two commands and no script, whose key would have to be one that gateways may write.
        key = _texts(await self._connection.hash(keys.api_key(key_id), patience))
        if not key:
            return None
        tenant = _texts(await self._connection.hash(keys.tenant(key["tenant"]), patience))
        return (_key(key_id, key), _tenant(key["tenant"], tenant)) if tenant else None

    def now_us(self) -> int:
        """Returns the instant at Redis, in microseconds."""
        return self._connection.clock.now() // 1000

    async def changes(self) -> AsyncIterator[str | None]:
        """Yields "key <id>" or "tenant <name>" of each change, and None whenever some may have been missed."""
        async for messages in self._connection.subscribe(keys.AUTH_CHANNEL):
            if messages is None:
                yield None
            for message in messages or ():
                yield message.decode(errors="replace")


class IdentityRegister:
    """Writes tenants and keys, each change with its entry in the audit.

    Args:
        connection: to Redis.
        actor: who changes, for the audit.
    """

    def __init__(self, connection: RedisConnection, actor: str) -> None:
        self._connection = connection
        self._actor = actor
        self._save = NamedScript.load("save_identity")

    async def tenants(self) -> list[Tenant]:
        """Returns all tenants, by name."""
        names = sorted(name.decode() for name in await self._connection.command("SMEMBERS", keys.TENANTS))
        return [await self.tenant(name) for name in names]

    async def tenant(self, name: str) -> Tenant:
        """Returns one; raises IdentityMissingError."""
        fields = await self._fields(keys.tenant(name))
        if not fields:
            raise IdentityMissingError.of_field("tenant", f"there is no tenant {name[:64]!r}")
        return _tenant(name, fields)

    async def keys_of(self, tenant: str) -> list[StoredKey]:
        """Returns a tenant's keys, the oldest first."""
        found = await self._connection.command("SMEMBERS", keys.keys_of(tenant))
        return sorted([await self.key(name.decode()) for name in found], key=lambda key: key.created_us)

    async def key(self, key_id: str) -> StoredKey:
        """Returns one; raises IdentityMissingError."""
        fields = await self._fields(keys.api_key(key_id))
        if not fields:
            raise IdentityMissingError.of_field("key", f"there is no key {key_id[:64]!r}")
        return _key(key_id, fields)

    async def _fields(self, key: str) -> dict[str, str]:
        return _texts(await self._connection.hash(key))

    async def create_tenant(self, tenant: Tenant) -> None:
        """Raises IdentityExistsError."""
        created = replace(tenant, created_us=self.now_us())
        await self._write("tenant", tenant.name, "", _tenant_fields(created), create=True)

    async def change_tenant(self, tenant: Tenant) -> None:
        """Raises IdentityMissingError."""
        await self._write("tenant", tenant.name, "", _tenant_fields(tenant), create=False)

    async def create_key(self, key: StoredKey) -> None:
        """Raises IdentityMissingError if there is no such tenant."""
        created = replace(key, created_us=self.now_us())
        await self._write("key", key.key_id, key.tenant, _key_fields(created), create=True)

    async def change_key(self, key: StoredKey) -> None:
        """Raises IdentityMissingError."""
        await self._write("key", key.key_id, key.tenant, _key_fields(key), create=False)

    def now_us(self) -> int:
        """Returns the instant at Redis, in microseconds."""
        return self._connection.clock.now() // 1000

    async def _write(self, kind: str, name: str, owner: str, fields: Mapping[str, str | bool], *, create: bool) -> None:
        nonce = secrets.token_hex(16)
        shown = {field: value for field, value in fields.items() if value is not False and field != "sha256"}
        what = {"actor": self._actor, "action": "create" if create else "change", "kind": kind, "target": name, "fields": shown}
        for _ in range(TRIES):
            after, before = await self._last_entry()
            entry = {"at_us": self.now_us(), **what, "prev": hashlib.sha256(before).hexdigest()}
            arguments = {
                "kind": kind,
                "name": name,
                "owner": owner,
                "fields": json.dumps(fields),
                "create": "1" if create else "",
                "after": after,
                "nonce": nonce,
                "entry": json.dumps(entry),
            }
            (reply,) = await self._connection.run_together([self._save.call(keys.AUTH_PREFIX, arguments)])
            if _is_done(reply.items[0], kind, name, owner):
                return
        raise StoreUnavailableError("others write to the audit all the time", retry_after=1.0)

    async def _last_entry(self) -> tuple[str, bytes]:
        """Returns the id and the text of the audit's last entry; both empty if there is none."""
        found = await self._connection.command("XREVRANGE", keys.AUDIT, "+", "-", "COUNT", 1)
        return (found[0][0].decode(), found[0][1][1]) if found else ("", b"")


def _is_done(status: bytes, kind: str, name: str, owner: str) -> bool:
    """Returns whether a change was written, False if it must be tried again; raises what it cannot be."""
    if status == b"EXISTS":
        raise IdentityExistsError.of_field(kind, f"there is already one named {name[:64]!r}")
    if status == b"MISSING":
        missing, called = ("tenant", owner) if owner else (kind, name)  # a key is changed after it was read, so it is there
        raise IdentityMissingError.of_field(missing, f"there is no {missing} {called[:64]!r}")
    return status == b"DONE"


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _key_fields(key: StoredKey) -> dict[str, str | bool]:
    """Returns all fields of a key; False for those that it has not."""
    return {
        "sha256": key.digest,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": " ".join(sorted(scope.value for scope in key.scopes)),
        "models": _models_field(key.models),
        "created_us": str(key.created_us),
        "expires_us": _instant(key.expires_us),
        "revoked_us": _instant(key.revoked_us),
        **_limit_fields(key.quota),
    }


def _key(key_id: str, fields: Mapping[str, str]) -> StoredKey:
    return StoredKey(
        key_id=key_id,
        digest=fields["sha256"],
        tenant=fields["tenant"],
        name=fields["name"],
        scopes=frozenset(Scope(one) for one in fields["scopes"].split()),
        models=_models(fields),
        quota=Quota.of_fields(fields),
        created_us=int(fields["created_us"]),
        expires_us=int(fields["expires_us"]) if "expires_us" in fields else None,
        revoked_us=int(fields["revoked_us"]) if "revoked_us" in fields else None,
    )


def _tenant_fields(tenant: Tenant) -> dict[str, str | bool]:
    return {
        "title": tenant.title,
        "suspended": "1" if tenant.suspended else False,
        "models": _models_field(tenant.models),
        "created_us": str(tenant.created_us),
        **_limit_fields(tenant.quota),
    }


def _tenant(name: str, fields: Mapping[str, str]) -> Tenant:
    return Tenant(
        name=name,
        title=fields["title"],
        suspended="suspended" in fields,
        models=_models(fields),
        quota=Quota.of_fields(fields),
        created_us=int(fields["created_us"]),
    )


def _limit_fields(quota: Quota) -> dict[str, str | bool]:
    given = quota.as_fields()
    return {name: given.get(name, False) for name in Quota.names()}


def _models_field(models: frozenset[str] | None) -> str | bool:
    return False if models is None else json.dumps(sorted(models))


def _models(fields: Mapping[str, str]) -> frozenset[str] | None:
    return frozenset(json.loads(fields["models"])) if "models" in fields else None


def _instant(instant_us: int | None) -> str | bool:
    return False if instant_us is None else str(instant_us)
