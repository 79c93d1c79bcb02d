"""Lua scripts as values: what is run, on which shard, with which arguments, and what came back."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any, NamedTuple, TypeAlias


@dataclass(frozen=True)
class Script:
    """One Lua script with what all scripts share in front."""

    name: str
    source: str
    digest: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """Reads scripts/<name>.lua."""
        folder = resources.files("tokenrelay.store") / "scripts"
        source = (folder / "shared.lua").read_text() + (folder / f"{name}.lua").read_text()
        return cls(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())


ScriptCall: TypeAlias = tuple[Script, str, Sequence[Any]]  # the script, its shard's prefix, its arguments


class Reply(NamedTuple):
    """What a script answered, and when: microseconds of Redis' clock."""

    at_us: int
    items: list[Any]
