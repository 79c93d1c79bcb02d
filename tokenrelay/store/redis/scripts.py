"""Lua scripts as values: what is run, on which shard, with which arguments, and what came back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias


@dataclass(frozen=True)
class Script:
    """One Lua script.

    Attributes:
        digest: by which Redis knows it, the SHA-1 of its source in hexadecimal.
    """

    name: str
    source: str
    digest: str


ScriptCall: TypeAlias = tuple[Script, str, Sequence[Any]]  # the script, its shard's prefix, its arguments


class Reply(NamedTuple):
    """What a script answered, and when: microseconds of Redis' clock."""

    at_us: int
    items: list[Any]
