"""What the operators' commands take on their command lines, parsed and checked. No secret is ever among it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from tokenrelay.admin.console import as_text
from tokenrelay.identity.callers import Scope
from tokenrelay.identity.quotas import Quota

TENANT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label, so that it may stand in a certificate's name
LARGEST = 2**53  # Redis counts in doubles
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _tenant_name(value: str) -> str:
    if not TENANT_NAME.fullmatch(value):
        raise typer.BadParameter("must be 1 to 63 lower-case letters, digits and dashes, with none of these at an end")
    return value


def _span(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\d{1,6}[smhd]", value):
        raise typer.BadParameter("must be a number and a unit: s, m, h or d, as in 90d")
    return value


NameArgument = Annotated[str, typer.Argument(metavar="TENANT", help="the tenant's name", callback=_tenant_name)]
KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY-ID", help="the key's id, the 12 characters after trk_", callback=as_text)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
LimitOption = Annotated[
    list[str],
    typer.Option("--limit", metavar="NAME=NUMBER", help=f"a limit, or NAME=none to lift it: {', '.join(Quota.names())}"),
]
ModelOption = Annotated[list[str], typer.Option("--model", help="a model that may be used; without any, all may")]
ScopeOption = Annotated[list[str], typer.Option("--scope", help=f"what may be done: {', '.join(one.value for one in Scope)}")]
KeepOption = Annotated[str, typer.Option("--keep", help="for how long the old one still counts, as in 1h", callback=_span)]
SpanOption = Annotated[str | None, typer.Option("--expires-in", help="for how long it counts, as in 90d", callback=_span)]


def quota(given: Sequence[str], before: Quota) -> Quota:
    """Returns limits with what is given changed; raises typer.BadParameter."""
    changed: dict[str, int | None] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in Quota.names():
            raise typer.BadParameter(f"--limit takes NAME=NUMBER, with one of the names {', '.join(Quota.names())}")
        if value != "none" and not (value.isascii() and value.isdecimal() and 1 <= int(value) <= LARGEST):
            raise typer.BadParameter(f"--limit {name} must be a whole number from 1 to {LARGEST}, or none")
        changed[name] = None if value == "none" else int(value)
    return replace(before, **changed)


def scopes(given: Sequence[str], otherwise: frozenset[Scope]) -> frozenset[Scope]:
    """Returns the scopes that are named, or others if none is; raises typer.BadParameter."""
    try:
        return frozenset(Scope(one) for one in given) or otherwise
    except ValueError:
        raise typer.BadParameter(f"--scope must be one of {', '.join(one.value for one in Scope)}") from None


def models(given: Sequence[str]) -> frozenset[str] | None:
    """Returns the models that are named; None, which means all, if none is."""
    return frozenset(as_text(one) or "" for one in given) or None


def seconds(span: str) -> int:
    """Returns how long a span is."""
    return int(span[:-1]) * UNITS[span[-1]]
