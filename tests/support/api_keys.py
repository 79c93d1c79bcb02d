"""Tenants and keys as an operator makes them, for tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from tokenrelay.identity.api_keys import ApiKey, KeyKind
from tokenrelay.store.identities import IdentityRegister, StoredKey, Tenant
from tokenrelay.store.redis.connection import RedisConnection


@dataclass
class Keys:
    """Makes and changes keys."""

    register: IdentityRegister

    async def tenant(self, name: str, **values: Any) -> None:
        await self.register.create_tenant(Tenant(name, **values))

    async def new(self, tenant: str, kind: KeyKind = KeyKind.CALLS, **values: Any) -> ApiKey:
        key = ApiKey.new(kind)
        await self.register.create_key(StoredKey(key.key_id, key.digest(), tenant, **values))
        return key

    async def revoke(self, key: ApiKey) -> None:
        stored = await self.register.key(key.key_id)
        await self.register.change_key(replace(stored, revoked_us=self.register.now_us()))


@asynccontextmanager
async def keys_of(url: str) -> AsyncIterator[Keys]:
    connection = RedisConnection(url, patience=5.0)
    try:
        await connection.wait_until_ready()
        yield Keys(IdentityRegister(connection, "a test"))
    finally:
        await connection.close()


Metadata = tuple[tuple[str, str], ...]


def shown(key: ApiKey | str) -> Metadata:
    """Returns the metadata of a call with a key."""
    return (("authorization", f"Bearer {key if isinstance(key, str) else key.reveal()}"),)
