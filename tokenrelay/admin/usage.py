"""`tokenrelay-admin usage`: what tenants have used, as a table, CSV or JSON."""

import csv
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from tokenrelay.admin import console
from tokenrelay.admin.console import as_text, err, print_json, print_table
from tokenrelay.store.assembly import Store
from tokenrelay.store.identities import IdentityRegister
from tokenrelay.store.usage import Ledger, Usage

LONGEST_SPAN = 400  # days

DayOption = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="a day of UTC; without it, today")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="only this tenant", callback=as_text)]
FormatOption = Annotated[Literal["table", "csv", "json"], typer.Option("--format", help="how it is printed")]


def usage(
    tenant: TenantOption = None,
    since: DayOption = None,
    until: DayOption = None,
    printed: FormatOption = "table",
) -> None:
    """Shows what tenants have used, by day, key and model. The ledger is kept for 40 days."""
    last = until.date() if until is not None else datetime.now(UTC).date()
    first = since.date() if since is not None else last
    if not 0 <= (last - first).days <= LONGEST_SPAN:
        raise typer.BadParameter(f"--since must be a day before --until, and at most {LONGEST_SPAN} days")

    async def work(store: Store) -> None:
        register = IdentityRegister(store.connection, "")
        names = [tenant] if tenant is not None else [one.name for one in await register.tenants()]
        ledger = Ledger(store.connection, store.shards)
        found = [one for name in names for one in await ledger.read(name, _days(first, last))]
        if printed == "json":
            print_json([_as_dict(one) for one in found])
        elif printed == "csv":
            csv.writer(sys.stdout).writerows(_rows(found))
        elif found:
            print_table(_rows(found))
        else:
            err.print("Nothing was used.")

    console.run("admin", work)


def _days(first: date, last: date) -> Iterator[date]:
    for number in range((last - first).days + 1):
        yield first + timedelta(days=number)


def _as_dict(one: Usage) -> dict[str, Any]:
    return {
        "day": one.day.isoformat(),
        "tenant": one.tenant,
        "key": one.key_id,
        "model": one.model,
        "prompt_tokens": one.prompt_tokens,
        "cached_tokens": one.cached_tokens,
        "completion_tokens": one.completion_tokens,
        "finished": one.ended.get("finished", 0),
        "other_ends": sum(count for state, count in one.ended.items() if state != "finished"),
    }


def _rows(found: Sequence[Usage]) -> list[list[str]]:
    rows = [_as_dict(one) for one in found]
    heads = list(rows[0]) if rows else []
    return [heads, *([str(value) for value in row.values()] for row in rows)]
