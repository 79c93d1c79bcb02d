"""`tokenrelay-admin keys`: creates, lists, limits, rotates, revokes. A key's text is printed once, when it is made."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from tokenrelay.admin import arguments, console
from tokenrelay.admin.arguments import (
    AsJson,
    KeepOption,
    KeyArgument,
    LimitOption,
    ModelOption,
    NameArgument,
    ScopeOption,
    SpanOption,
)
from tokenrelay.admin.console import as_text, err, instant, out, print_json, print_table
from tokenrelay.admin.register import with_register
from tokenrelay.identity.api_keys import ApiKey, KeyKind
from tokenrelay.identity.callers import ADMIN_SCOPES, USUAL_SCOPES
from tokenrelay.identity.quotas import UNLIMITED
from tokenrelay.store.identities import IdentityRegister, StoredKey

app = console.application("API keys of tenants.")

SHOWN_ONCE = "This is the only time that the key is shown. What is stored cannot be turned back into it."


@app.command()
def create(
    tenant: NameArgument,
    name: Annotated[str, typer.Option(help="what people call it", callback=as_text)] = "",
    admin: Annotated[bool, typer.Option("--admin", help="a key for operators, tra_…, instead of one for calls")] = False,
    scope: ScopeOption = [],  # noqa: B006  # typer takes it as it is, and nobody changes it
    model: ModelOption = [],  # noqa: B006
    limit: LimitOption = [],  # noqa: B006
    expires_in: SpanOption = None,
) -> None:
    """Creates a key, and prints it."""
    key = ApiKey.new(KeyKind.ADMIN if admin else KeyKind.CALLS)
    stored = StoredKey(
        key_id=key.key_id,
        digest=key.digest(),
        tenant=tenant,
        name=name,
        scopes=arguments.scopes(scope, ADMIN_SCOPES if admin else USUAL_SCOPES),
        models=arguments.models(model),
        quota=arguments.quota(limit, UNLIMITED),
    )

    async def work(register: IdentityRegister) -> None:
        expires_us = None if expires_in is None else register.now_us() + arguments.seconds(expires_in) * 1_000_000
        await register.create_key(replace(stored, expires_us=expires_us))
        _hand_over(key)

    with_register(work)


@app.command("list")
def list_keys(tenant: NameArgument, as_json: AsJson = False) -> None:
    """Lists a tenant's keys, the oldest first."""

    async def work(register: IdentityRegister) -> None:
        await register.tenant(tenant)  # or it is said that there is none
        found, now_us = await register.keys_of(tenant), register.now_us()
        if as_json:
            print_json([_as_dict(key, now_us) for key in found])
        elif found:
            rows = [(key.key_id, _state(key, now_us), instant(key.created_us), _expiry(key), key.name) for key in found]
            print_table([("id", "state", "created", "expires", "name"), *rows])
        else:
            err.print(f"{tenant} has no keys.")

    with_register(work)


@app.command("limit")
def change_limits(key_id: KeyArgument, limit: LimitOption) -> None:
    """Changes limits; those that are not named stay."""

    async def work(register: IdentityRegister) -> None:
        key = await register.key(key_id)
        await register.change_key(replace(key, quota=arguments.quota(limit, key.quota)))
        err.print(f"changed {key_id}")

    with_register(work)


@app.command()
def rotate(
    key_id: KeyArgument,
    keep: KeepOption = "1d",
) -> None:
    """Makes a new key that may do the same, prints it, and lets the old one expire."""

    async def work(register: IdentityRegister) -> None:
        old = await register.key(key_id)
        new = ApiKey.new(KeyKind.ADMIN if old.scopes & ADMIN_SCOPES else KeyKind.CALLS)
        await register.create_key(replace(old, key_id=new.key_id, digest=new.digest(), revoked_us=None))
        ends_us = register.now_us() + arguments.seconds(keep) * 1_000_000
        await register.change_key(replace(old, expires_us=min(ends_us, old.expires_us or ends_us)))
        err.print(f"{key_id} counts until {instant(ends_us)}")
        _hand_over(new)

    with_register(work)


@app.command()
def revoke(key_id: KeyArgument) -> None:
    """Lets a key open nothing any more, and ends the calls that it has opened."""

    async def work(register: IdentityRegister) -> None:
        key = await register.key(key_id)
        await register.change_key(replace(key, revoked_us=key.revoked_us or register.now_us()))
        err.print(f"revoked {key_id}")

    with_register(work)


def _hand_over(key: ApiKey) -> None:
    err.print(SHOWN_ONCE)
    out.print(key.reveal())


def _state(key: StoredKey, now_us: int) -> str:
    if key.revoked_us is not None:
        return "revoked"
    return "active" if key.counts_at(now_us) else "expired"


def _expiry(key: StoredKey) -> str:
    return "never" if key.expires_us is None else instant(key.expires_us)


def _as_dict(key: StoredKey, now_us: int) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "tenant": key.tenant,
        "name": key.name,
        "state": _state(key, now_us),
        "scopes": sorted(scope.value for scope in key.scopes),
        "models": None if key.models is None else sorted(key.models),
        "limits": key.quota.as_numbers(),
        "created": instant(key.created_us),
        "expires": None if key.expires_us is None else instant(key.expires_us),
        "revoked": None if key.revoked_us is None else instant(key.revoked_us),
    }
