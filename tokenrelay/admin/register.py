"""Opens the register of tenants and keys for one command."""

import getpass
from collections.abc import Awaitable, Callable

from tokenrelay.admin import console
from tokenrelay.store.assembly import Store
from tokenrelay.store.identities import IdentityRegister


def with_register(work: Callable[[IdentityRegister], Awaitable[None]]) -> None:
    """Runs a command's work; the audit has who is logged in on this machine."""

    async def with_store(store: Store) -> None:
        await work(IdentityRegister(store.connection, getpass.getuser()))

    console.run("admin", with_store)
