"""`tokenrelay-admin audit`: who changed what, and whether an entry is missing."""

import hashlib
import json
from typing import Annotated, Any

import typer

from tokenrelay.admin import console
from tokenrelay.admin.arguments import AsJson
from tokenrelay.admin.console import err, instant, print_json, print_table
from tokenrelay.store import keys
from tokenrelay.store.assembly import Store

PAGE = 1000


def audit(
    as_json: AsJson = False,
    check: Annotated[bool, typer.Option("--check", help="only say whether the chain is whole; status 1 if not")] = False,
) -> None:
    """Lists the changes of tenants and keys, the oldest first. A missing one shows, as each has the hash of that before it."""

    async def work(store: Store) -> None:
        texts = await _read(store)
        broken = _first_break(texts)
        entries = [json.loads(text) for text in texts]
        if as_json and not check:
            print_json(entries)
        elif not check:
            print_table([("when", "who", "action", "what", "target"), *(_row(one) for one in entries)])
        if broken is not None:
            err.print(f"the chain is broken before entry {broken + 1} of {len(texts)}: something was removed or changed")
            raise typer.Exit(1)
        err.print(f"{len(texts)} entries, each with the hash of the one before")

    console.run("admin", work)


async def _read(store: Store) -> list[bytes]:
    texts: list[bytes] = []
    after = "-"
    while True:
        page = await store.connection.command("XRANGE", keys.AUDIT, after, "+", "COUNT", PAGE)
        texts += [fields[1] for _, fields in page]
        if len(page) < PAGE:
            return texts
        after = f"({page[-1][0].decode()}"


def _first_break(texts: list[bytes]) -> int | None:
    before = b""
    for position, text in enumerate(texts):
        if json.loads(text)["prev"] != hashlib.sha256(before).hexdigest():
            return position
        before = text
    return None


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    return (instant(entry["at_us"]), entry["actor"], entry["action"], entry["kind"], entry["target"])
