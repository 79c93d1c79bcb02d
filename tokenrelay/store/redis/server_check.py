"""Whether a server is fit to be our Redis: its version, what it lets us do, and how it stores."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError

from tokenrelay.store.redis import errors
from tokenrelay.store.redis.pipe import RedisPipe

log = structlog.get_logger(__name__)

OLDEST_VERSION = (7, 0)
NOTHING = "tokenrelay:{0}:nothing"  # a key that nobody uses
NOBODY = "tokenrelay:feed:nobody"  # a channel that nobody reads
# A write that changes nothing. Who may not write now says why: a replica, a Redis that loads or cannot write its disk.
PROBE = ("PERSIST", NOTHING)
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
CONFIGURATION = ("CONFIG", "GET")
# Commands that we and our scripts send, in a form that changes nothing, to learn what our user may not.
PROBES: Sequence[Sequence[str]] = (
    PROBE,
    ("TIME",),
    ("INFO", "memory"),
    ("EVAL", "return 1", "0"),
    ("EVALSHA", "0" * 40, "0"),
    ("DEL", NOTHING),
    ("EXISTS", NOTHING),
    ("GET", NOTHING),
    ("SET", NOTHING, "", "XX"),
    ("PEXPIRE", NOTHING, "1"),
    ("HDEL", NOTHING, "field"),
    ("HGET", NOTHING, "field"),
    ("HMGET", NOTHING, "field"),
    ("HGETALL", NOTHING),
    ("HINCRBY", NOTHING, "field", "no number"),
    ("ZADD", NOTHING, "XX", "1", "member"),
    ("ZREM", NOTHING, "member"),
    ("ZRANGE", NOTHING, "0", "0"),
    ("ZRANGEBYSCORE", NOTHING, "0", "0"),
    ("ZREMRANGEBYSCORE", NOTHING, "0", "0"),
    ("XADD", NOTHING, "NOMKSTREAM", "*", "field", "value"),
    ("XDEL", NOTHING, "0-1"),
    ("XACK", NOTHING, "group", "0-1"),
    ("XRANGE", NOTHING, "-", "+"),
    ("XREAD", "STREAMS", NOTHING, "0"),
    ("XREADGROUP", "GROUP", "group", "consumer", "STREAMS", NOTHING, ">"),
    ("XPENDING", NOTHING, "group"),
    ("XINFO", "GROUPS", NOTHING),
    ("XINFO", "CONSUMERS", NOTHING, "group"),
    ("XGROUP", "CREATE", NOTHING, "group", "0"),
    ("XGROUP", "DELCONSUMER", NOTHING, "group", "consumer"),
    ("PUBLISH", NOBODY, ""),
)


async def check(pipe: RedisPipe, greeting: dict[bytes, Any], sends: Callable[[Sequence[str]], bool] = lambda _: True) -> None:
    """Checks a server over a connection to it; warns of settings that break promises.

    Args:
        pipe: the connection.
        greeting: what the server said of itself.
        sends: tells whether this process may need a command.

    Raises:
        StoreUnfitError: it is too old, no server of data, or does not let us do what we must.
        RedisError: it does not take writes now.
    """
    if greeting.get(b"mode") == b"sentinel":
        raise errors.StoreUnfitError("TOKENRELAY_REDIS_URL: this is a Sentinel; the address of the primary is needed")
    version = greeting.get(b"version", b"").decode(errors="replace")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise errors.StoreUnfitError(f"TOKENRELAY_REDIS_URL: Redis is {version}; {oldest} or newer is needed")
    needed = [command for command in PROBES if command is PROBE or sends(command)]
    replies = await asyncio.gather(*(_reply(pipe, command) for command in needed))
    refused = [
        " ".join(command[:2] if command[0] in {"XINFO", "XGROUP"} else command[:1]).lower()
        for command, reply in zip(needed, replies, strict=True)
        if isinstance(reply, RedisError) and errors.known_of(reply).meaning is errors.Meaning.REFUSED
    ]
    if refused:
        raise errors.StoreUnfitError(
            "TOKENRELAY_REDIS_URL: Redis does not let this user do what is needed on keys and channels tokenrelay:*: "
            + ", ".join(refused)
        )
    if isinstance(replies[0], RedisError):
        raise replies[0]
    if sends(CONFIGURATION):
        await _warn_if_not_durable(pipe)


async def _warn_if_not_durable(pipe: RedisPipe) -> None:
    reply = await _reply(pipe, (*CONFIGURATION, *DURABLE))
    if isinstance(reply, RedisError):
        log.warning("redis does not show its configuration; promises need these settings", **_underscored(DURABLE))
        return
    found = {name.decode(): value.decode() for name, value in reply.items()}
    wrong = {name: found.get(name) for name, value in DURABLE.items() if found.get(name) != value}
    if wrong:
        log.warning("redis may lose acknowledged tokens", found=wrong, wanted={name: DURABLE[name] for name in wrong})


async def _reply(pipe: RedisPipe, command: Sequence[str]) -> Any:
    """Returns a reply, an error reply as a value."""
    try:
        return await pipe.call(*command)
    except RedisError as error:
        return error


def _underscored(names: dict[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in names.items()}
