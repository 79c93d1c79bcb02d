"""Tenants and keys in a real Redis: created, found, changed, and each change in an audit whose entries are chained."""

import asyncio
import hashlib
import json
from dataclasses import replace

import pytest

from tests.store.conftest import Bench
from tokenrelay.identity.api_keys import ApiKey, KeyKind
from tokenrelay.identity.callers import Scope
from tokenrelay.identity.quotas import Quota
from tokenrelay.store import keys
from tokenrelay.store.identities import (
    Identities,
    IdentityExistsError,
    IdentityMissingError,
    IdentityRegister,
    StoredKey,
    Tenant,
)


@pytest.fixture
def register(bench: Bench) -> IdentityRegister:
    return IdentityRegister(bench.store.connection, "a test")


@pytest.fixture
def identities(bench: Bench) -> Identities:
    return Identities(bench.store.connection)


def stored(key: ApiKey, **values: object) -> StoredKey:
    return StoredKey(key.key_id, key.digest(), "acme", **values)  # type: ignore[arg-type]


async def test_a_key_is_found_with_all_that_was_said_of_it(register: IdentityRegister, identities: Identities) -> None:
    tenant = Tenant("acme", "Acme & Söhne", models=frozenset({"demo"}), quota=Quota(tokens_per_day=5, concurrent=3))
    key = ApiKey.new(KeyKind.CALLS)
    given = stored(key, name="laptop", scopes=frozenset({Scope.READ}), quota=Quota(requests_per_minute=7), expires_us=9)
    await register.create_tenant(tenant)
    await register.create_key(given)
    found = await identities.find(key.key_id)
    assert found is not None
    assert found[0].created_us > 0
    assert (replace(found[0], created_us=0), replace(found[1], created_us=0)) == (given, tenant)
    assert await register.keys_of("acme") == [found[0]]
    assert await register.tenants() == [found[1]]


async def test_an_unknown_key_is_not_found(identities: Identities) -> None:
    assert await identities.find("0" * 12) is None


async def test_what_is_there_is_not_created_again_and_what_is_not_is_not_changed(register: IdentityRegister) -> None:
    await register.create_tenant(Tenant("acme"))
    with pytest.raises(IdentityExistsError):
        await register.create_tenant(Tenant("acme"))
    with pytest.raises(IdentityMissingError):
        await register.change_tenant(Tenant("nobody"))
    with pytest.raises(IdentityMissingError):
        await register.create_key(replace(stored(ApiKey.new(KeyKind.CALLS)), tenant="nobody"))
    with pytest.raises(IdentityMissingError):
        await register.key("0" * 12)


async def test_a_limit_that_is_taken_away_is_gone(register: IdentityRegister) -> None:
    await register.create_tenant(Tenant("acme", quota=Quota(concurrent=1, tokens_per_minute=2)))
    tenant = await register.tenant("acme")
    await register.change_tenant(replace(tenant, quota=Quota(tokens_per_minute=2)))
    assert (await register.tenant("acme")).quota == Quota(tokens_per_minute=2)


async def test_changes_are_told(register: IdentityRegister, identities: Identities) -> None:
    changes = identities.changes()
    assert await anext(changes) is None  # from now on
    await register.create_tenant(Tenant("acme"))
    assert await anext(changes) == "tenant acme"
    await changes.aclose()  # type: ignore[attr-defined]


async def test_the_audit_is_a_chain_also_of_concurrent_changes(bench: Bench, register: IdentityRegister) -> None:
    await asyncio.gather(*(register.create_tenant(Tenant(f"t{number}")) for number in range(5)))
    before = b""
    entries = await bench.store.connection.command("XRANGE", keys.AUDIT, "-", "+")
    assert len(entries) == 5
    for _, (_, text) in entries:
        assert json.loads(text)["prev"] == hashlib.sha256(before).hexdigest()
        before = text


async def test_no_digest_of_a_key_is_in_the_audit(bench: Bench, register: IdentityRegister) -> None:
    key = ApiKey.new(KeyKind.CALLS)
    await register.create_tenant(Tenant("acme"))
    await register.create_key(stored(key))
    told = repr(await bench.client.xrange(keys.AUDIT))
    assert key.key_id in told
    assert key.digest() not in told
