"""`tokenrelay-admin tenants`: creates, lists, limits, suspends."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from tokenrelay.admin import arguments, console
from tokenrelay.admin.arguments import AsJson, LimitOption, ModelOption, NameArgument
from tokenrelay.admin.console import as_text, err, instant, print_json, print_table
from tokenrelay.admin.register import with_register
from tokenrelay.identity.quotas import UNLIMITED
from tokenrelay.store.identities import IdentityRegister, Tenant

app = console.application("Tenants: the teams or products whose generations are hidden from each other.")


@app.command()
def create(
    name: NameArgument,
    title: Annotated[str, typer.Option(help="what people call it", callback=as_text)] = "",
    model: ModelOption = [],  # noqa: B006  # typer takes it as it is, and nobody changes it
    limit: LimitOption = [],  # noqa: B006
) -> None:
    """Creates a tenant."""
    tenant = Tenant(name, title, models=arguments.models(model), quota=arguments.quota(limit, UNLIMITED))

    async def work(register: IdentityRegister) -> None:
        await register.create_tenant(tenant)
        err.print(f"created {name}")

    with_register(work)


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """Lists all tenants."""

    async def work(register: IdentityRegister) -> None:
        found = await register.tenants()
        if as_json:
            print_json([_as_dict(tenant) for tenant in found])
        elif found:
            rows = [(one.name, _state(one), instant(one.created_us), _limits(one), one.title) for one in found]
            print_table([("name", "state", "created", "limits", "title"), *rows])
        else:
            err.print("There are no tenants.")

    with_register(work)


@app.command()
def show(name: NameArgument) -> None:
    """Shows a tenant as JSON."""

    async def work(register: IdentityRegister) -> None:
        print_json(_as_dict(await register.tenant(name)))

    with_register(work)


@app.command("limit")
def change_limits(name: NameArgument, limit: LimitOption) -> None:
    """Changes limits; those that are not named stay."""
    _change(name, lambda tenant: replace(tenant, quota=arguments.quota(limit, tenant.quota)))


@app.command("models")
def change_models(name: NameArgument, model: ModelOption = []) -> None:  # noqa: B006
    """Sets the models that it may use; without any, all."""
    _change(name, lambda tenant: replace(tenant, models=arguments.models(model)))


@app.command()
def suspend(name: NameArgument) -> None:
    """Lets none of its keys open anything, and ends its open calls."""
    _change(name, lambda tenant: replace(tenant, suspended=True))


@app.command()
def resume(name: NameArgument) -> None:
    """Takes a suspension back."""
    _change(name, lambda tenant: replace(tenant, suspended=False))


def _change(name: str, change: Callable[[Tenant], Tenant]) -> None:
    async def work(register: IdentityRegister) -> None:
        await register.change_tenant(change(await register.tenant(name)))
        err.print(f"changed {name}")

    with_register(work)


def _state(tenant: Tenant) -> str:
    return "suspended" if tenant.suspended else "active"


def _limits(tenant: Tenant) -> str:
    return " ".join(f"{name}={value}" for name, value in tenant.quota.as_fields().items()) or "none"


def _as_dict(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "title": tenant.title,
        "state": _state(tenant),
        "models": None if tenant.models is None else sorted(tenant.models),
        "limits": tenant.quota.as_numbers(),
        "created": instant(tenant.created_us),
    }
