"""What the operators' commands have in common: a store for the time of one command, its output, and how it fails."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import typer
from rich.console import Console

from tokenrelay import logs, settings
from tokenrelay.admin.settings import AdminSettings
from tokenrelay.errors import StoreUnavailableError, TokenrelayError
from tokenrelay.start_up import StartUpError
from tokenrelay.store import assembly
from tokenrelay.store.assembly import Store
from tokenrelay.store.redis_users import RedisUser

out = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)


def as_text(value: str | None) -> str | None:
    """Refuses bytes of the command line that are no text, as the interpreter hands them on; Redis' client cannot send them."""
    if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
        raise typer.BadParameter("is not valid UTF-8")
    return value


def application(about: str) -> typer.Typer:
    """Returns a command of several.

    Without Rich, whose markup would change what an error repeats of the command line, and without local variables in a
    traceback, since these hold prompts and keys.
    """
    return typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help=about,
    )


def run(process: str, work: Callable[[Store], Awaitable[None]]) -> None:
    """Runs a command's work; turns errors into a line on standard error and an exit status that is not 0.

    Args:
        process: the command's name in log lines.
        work: what it does with the store.
    """
    configuration = settings.load(AdminSettings)
    logs.set_up(process, configuration)
    try:
        asyncio.run(_with_store(configuration, work))
    except TokenrelayError as error:
        err.print(str(error), style="red")
        raise typer.Exit(1) from error
    except StartUpError as error:
        err.print(str(error), style="red")
        raise typer.Exit(error.status) from error


async def _with_store(configuration: AdminSettings, work: Callable[[Store], Awaitable[None]]) -> None:
    store = assembly.open_store(configuration, RedisUser.ADMIN)
    try:
        await _wait_for(store, configuration)
        await work(store)
    finally:
        await store.connection.close()


async def _wait_for(store: Store, configuration: AdminSettings) -> None:
    """Raises StoreUnavailableError if Redis is away, StartUpError if it is there and unfit."""
    try:
        await asyncio.wait_for(store.connection.wait_until_ready(), configuration.redis_patience_seconds)
    except TimeoutError as error:
        raise StoreUnavailableError("Redis cannot be reached; check TOKENRELAY_REDIS_URL") from error


def instant(microseconds: int) -> str:
    """Returns an instant as people and programs read it, in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")


def print_json(value: object) -> None:
    """Prints a value as JSON."""
    out.print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows, the first one the heads, in columns as wide as they need to be."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        out.print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
