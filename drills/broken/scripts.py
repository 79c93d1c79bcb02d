"""Scripts with pieces taken out. What is replaced must be there exactly once, or the program does not even start."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha1

from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.scripts import Script
from tokenrelay.store.scripting import NamedScript

Replacement = tuple[str, str]

# What is appended goes behind what is there, as with RPUSH, and what ends a log does not ask how far it goes.
APPEND_AT_THE_END: Replacement = (
    "    if last == before then\n",
    "    if true then\n        before, after = last, digits(tonumber(last) + tonumber(after) - tonumber(before))\n",
)
FINISH_ANYWHERE: Replacement = ("    if record.last ~= last then return 'GAP' end\n", "")
# Append, and finish: whoever calls may write.
APPEND_WITHOUT_FENCE: Replacement = ("    if record[2] ~= fence then return", "    if not record[1] then return")
FINISH_WITHOUT_FENCE: Replacement = ("if not record or record.fence ~= fence then return", "if not record then return")
# Renew: whoever calls may go on.
RENEW_FOR_ANYBODY: Replacement = (
    "if not record or record.state ~= RUNNING or record.fence ~= fence then return",
    "if not record then return",
)
# Claim: whoever has read the entry has the generation.
CLAIM_WHAT_RUNS: Replacement = ("        if record.fence ~= fence then return {'HELD'} end\n", "")


def alter(**replacements: Sequence[Replacement]) -> None:
    """Has scripts, by their names, loaded with pieces of them replaced."""
    altered = {name: _altered(NamedScript.load(name), pieces) for name, pieces in replacements.items()}
    load, become_ready = NamedScript.load, RedisConnection.wait_until_ready

    def load_altered(_: type[NamedScript], name: str) -> NamedScript:
        return altered.get(name) or load(name)

    async def become_ready_with_them(self: RedisConnection) -> None:
        # Else the first frames are sent again once Redis has said that it does not know the script, which these cannot bear:
        # they are to be broken by a fault, and in peace to work.
        await become_ready(self)
        for one in altered.values():
            await self.command("SCRIPT", "LOAD", one.script.source)

    NamedScript.load = classmethod(load_altered)  # type: ignore[method-assign, assignment]
    RedisConnection.wait_until_ready = become_ready_with_them  # type: ignore[method-assign]


def _altered(one: NamedScript, replacements: Sequence[Replacement]) -> NamedScript:
    script, source = one.script, one.script.source
    for piece, other in replacements:
        found = source.count(piece)
        assert found == 1, f"{script.name}.lua has {piece!r} {found} times; this variant would not be what it says"
        source = source.replace(piece, other)
    altered = Script(script.name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())
    return replace(one, script=altered)
