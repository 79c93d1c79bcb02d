"""Scripts with pieces taken out. What is replaced must be there exactly once, or the program does not even start."""

from collections.abc import Sequence
from functools import partial
from hashlib import sha1

from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.scripts import Script

Replacement = tuple[str, str]

# What is appended goes behind what is there, as with RPUSH, and what ends a log does not ask how far it goes.
APPEND_AT_THE_END: Replacement = (
    "    if last == before then\n",
    "    if true then\n        before, after = last, digits(tonumber(last) + tonumber(after) - tonumber(before))\n",
)
FINISH_ANYWHERE: Replacement = ("    elseif record.last ~= last then\n", "    elseif false then\n")
# Append, and finish: whoever calls may write.
APPEND_WITHOUT_FENCE: Replacement = ("    if record[2] ~= fence then return", "    if not record[1] then return")
FINISH_WITHOUT_FENCE: Replacement = ("if not record or record.fence ~= fence then", "if not record then")
# Renew: whoever calls may go on.
RENEW_FOR_ANYBODY: Replacement = ("if record and record.state == RUNNING and record.fence == fence then", "if record then")
# Claim: whoever has read the entry has the generation.
CLAIM_WHAT_RUNS: Replacement = ("        if record.fence ~= fence then return {'HELD'} end\n", "")


def alter(**replacements: Sequence[Replacement]) -> None:
    """Has scripts, by their names, loaded with pieces of them replaced."""
    altered = {name: _altered(Script.load(name), pieces) for name, pieces in replacements.items()}
    load, become_ready = Script.load, RedisConnection.wait_until_ready

    def load_altered(_: type[Script], name: str) -> Script:
        return altered.get(name) or load(name)

    async def become_ready_with_them(self: RedisConnection) -> None:
        # Else the first frames are sent again once Redis has said that it does not know the script, which these cannot bear:
        # they are to be broken by a fault, and in peace to work.
        await become_ready(self)
        for script in altered.values():
            await self._once(partial(self._commands.script_load, script.source))

    Script.load = classmethod(load_altered)  # type: ignore[method-assign, assignment]
    RedisConnection.wait_until_ready = become_ready_with_them  # type: ignore[method-assign]


def _altered(script: Script, replacements: Sequence[Replacement]) -> Script:
    source = script.source
    for piece, other in replacements:
        found = source.count(piece)
        assert found == 1, f"{script.name}.lua has {piece!r} {found} times; this variant would not be what it says"
        source = source.replace(piece, other)
    return Script(script.name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())
