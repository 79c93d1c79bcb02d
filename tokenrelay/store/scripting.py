"""Calls of the Lua scripts, with their arguments by name.

A script's Lua source is the one place that names its arguments, and both sides read them there:

- The line `-- Arguments: lease_ms number, retention_ms number, worker` names what the whole call has. Each becomes a Lua
  local of that name. `number` makes a number of it; what is None here is nil there then, and else the empty text.
- The signature of `local function each(id, fence)`, if the script has one, names what each item of a batch has. The script
  ends with `return for_each(each)`, which replies for each item on its own, or with what `all_but(each, 'OK')` returns, which
  names the items whose reply is another one.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from importlib import resources
from operator import itemgetter
from typing import Any, Protocol

from tokenrelay.store import keys
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.scripts import Reply, Script, ScriptCall
from tokenrelay.store.shards import Shards

ARGUMENTS = re.compile(r"^-- Arguments: (.+(?:\n--     .+)*)$", re.MULTILINE)
EACH = re.compile(r"^local function each\((.+)\)$", re.MULTILINE)

SHARED = ("shared", "accounts", "transitions")  # in front of each script, in this order

Arguments = Mapping[str, Any]


class Row(Protocol):
    """An item as a named tuple with the script's names in the script's order."""

    @property
    def _fields(self) -> tuple[str, ...]: ...

    @property
    def generation_id(self) -> str: ...

    def __iter__(self) -> Iterator[Any]: ...


# One pcall for as many items as go well, because appends pass here with every token. One damaged generation must not fail the
# others of its frame: after it, the loop goes on behind it.
BATCH = """local function go_through(each, take)
    local at, last, item = {first}, #ARGV, 1
    local function onward()
        while at <= last do
            take(item, each({item}))
            at, item = at + {size}, item + 1
        end
    end
    while true do
        local is_done, failure = pcall(onward)
        if is_done then return end
        if not is_damage(failure) then return error(failure) end
        take(item, 'DAMAGED')
        at, item = at + {size}, item + 1
    end
end
local function for_each(each)
    local replies = {{NOW_US}}
    go_through(each, function(item, reply) replies[item + 1] = reply end)
    return replies
end
local function all_but(each, usual)
    local replies = {{NOW_US}}
    go_through(each, function(item, reply)
        if reply ~= usual then
            replies[#replies + 1] = item
            replies[#replies + 1] = reply
        end
    end)
    return replies
end"""


@dataclass(frozen=True)
class NamedScript:
    """A script and the names of its arguments, in Redis' order."""

    script: Script
    names: tuple[str, ...]
    item_names: tuple[str, ...]

    @classmethod
    def load(cls, name: str) -> "NamedScript":
        """Reads scripts/<name>.lua, and puts in front what all share and what makes locals of its arguments."""
        folder = resources.files("tokenrelay.store") / "scripts"
        text = (folder / f"{name}.lua").read_text()
        declared = [one.split() for one in _declared(ARGUMENTS, text)]
        item_names = tuple(_declared(EACH, text))
        shared = "".join((folder / f"{part}.lua").read_text() for part in SHARED)
        source = shared + _prelude(declared, len(item_names)) + text
        script = Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())
        return cls(script, tuple(one[0] for one in declared), item_names)

    def call(self, prefix: str, arguments: Arguments, items: Sequence[Arguments] = ()) -> ScriptCall:
        """Returns what runs it on a shard.

        Raises:
            TypeError: the arguments are not those that the script names.
        """
        self._check(self.names, arguments)
        values = ["" if (value := arguments[name]) is None else value for name in self.names]
        if items:
            self._check(self.item_names, items[0])
            pick = self._pick_item
            for item in items:
                # A script with one argument an item gets that argument, the others a tuple.
                picked = pick(item)
                values.extend(picked if len(self.item_names) > 1 else (picked,))
        return (self.script, prefix, values)

    def call_with_rows(self, prefix: str, arguments: Arguments, rows: Sequence[Row]) -> ScriptCall:
        """Returns the same as call for items that are rows: quicker, for what is called with every token.

        Raises:
            TypeError: the arguments, or the rows' fields in their order, are not those that the script names.
        """
        self._check(self.names, arguments)
        if rows[0]._fields != self.item_names:
            raise TypeError(f"{self.script.name}.lua takes {self.item_names}, and not {rows[0]._fields}")
        values = [arguments[name] for name in self.names]
        for row in rows:
            values += row
        return (self.script, prefix, values)

    @cached_property
    def _pick_item(self) -> Callable[[Arguments], Any]:
        """Takes an item's arguments in the script's order."""
        return itemgetter(*self.item_names)

    def _check(self, names: Sequence[str], given: Arguments) -> None:
        if len(given) != len(names) or not all(name in given for name in names):
            raise TypeError(f"{self.script.name}.lua takes {sorted(names)}, and not {sorted(given)}")


def _declared(pattern: re.Pattern[str], text: str) -> list[str]:
    found = pattern.search(text)
    return [one.strip() for one in found[1].replace("\n--", " ").split(",")] if found else []


def _prelude(declared: Sequence[Sequence[str]], item_size: int) -> str:
    """Returns the Lua that makes locals of the arguments, and `for_each`."""
    values = [f"tonumber(ARGV[{n}])" if "number" in one else f"ARGV[{n}]" for n, one in enumerate(declared, 1)]
    lines = [f"local {', '.join(one[0] for one in declared)} = {', '.join(values)}"] if declared else []
    if item_size:
        item = ", ".join(f"ARGV[at + {n}]" for n in range(item_size))
        lines.append(BATCH.format(first=len(declared) + 1, item=item, size=item_size))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Batch:
    """A script call on one shard, and the positions of the items that it is about."""

    call: ScriptCall
    positions: Sequence[int]


@dataclass(frozen=True)
class Scripts:
    """Runs scripts where a generation's keys are."""

    connection: RedisConnection
    shards: Shards

    async def run(self, script: NamedScript, shard: int, arguments: Arguments, patience: float | None = None) -> list[Any]:
        """Runs a script once and returns its reply; errors are those of RedisConnection."""
        (reply,) = await self.connection.run_together([script.call(keys.prefix(shard), arguments)], patience)
        return reply.items

    async def run_batch(
        self, script: NamedScript, arguments: Arguments, items: Sequence[Arguments], patience: float | None = None
    ) -> list[Any]:
        """Runs a batch script once a shard and returns one reply for each item, in the items' order."""
        batches = self.batches(script, arguments, items)
        if not batches:
            return []
        replies = await self.connection.run_together([batch.call for batch in batches], patience)
        return in_order(batches, replies)

    def batches(self, script: NamedScript, arguments: Arguments, items: Sequence[Arguments]) -> list[Batch]:
        """Sorts items by the shard of their `id`."""
        by_shard: dict[int, list[int]] = {}
        for position, item in enumerate(items):
            by_shard.setdefault(keys.shard_of_ours(item["id"]), []).append(position)
        return [
            Batch(script.call(keys.prefix(shard), arguments, [items[position] for position in positions]), positions)
            for shard, positions in by_shard.items()
        ]

    def batches_of_rows(self, script: NamedScript, arguments: Arguments, rows: Sequence[Row]) -> list[Batch]:
        """Sorts rows by the shard of their generation."""
        if len(self.shards) == 1:
            return [Batch(script.call_with_rows(keys.prefix(0), arguments, rows), range(len(rows)))] if rows else []
        by_shard: dict[int, list[int]] = {}
        for position, row in enumerate(rows):
            by_shard.setdefault(keys.shard_of_ours(row.generation_id), []).append(position)
        return [
            Batch(script.call_with_rows(keys.prefix(shard), arguments, [rows[position] for position in positions]), positions)
            for shard, positions in by_shard.items()
        ]


def in_order(batches: Sequence[Batch], replies: Sequence[Reply]) -> list[Any]:
    """Returns the items' replies in the items' order."""
    by_position = {
        position: one
        for batch, reply in zip(batches, replies, strict=True)
        for position, one in zip(batch.positions, reply.items, strict=True)
    }
    return [by_position[position] for position in range(len(by_position))]


def exceptions(batches: Sequence[Batch], replies: Sequence[Reply]) -> Iterator[tuple[int, Any]]:
    """Yields the positions and replies of the items that a script's `all_but` has named."""
    for batch, reply in zip(batches, replies, strict=True):
        for number, one in zip(reply.items[::2], reply.items[1::2], strict=True):
            yield batch.positions[number - 1], one
