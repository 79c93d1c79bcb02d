"""One Redis user for each kind of process, with no more rights than its scripts and commands need.

The rights of a script are those of whoever calls it, so a user that may submit may also write a record by hand: an ACL bounds
which keys and which commands, never which transitions. That is why gateways, which strangers talk to, get no command that
reads a queue, and may only read identities.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import resources

from tokenrelay.store.scripting import SHARED

CALL = re.compile(r"\b(?:p?call|attempt|on_shared)\('([A-Z]+)'")  # how a script names a command

SHARD_KEYS = "tokenrelay:{[0-9]*}:*"
REGISTRY_KEYS = "tokenrelay:{registry}:*"
AUTH_KEYS = "tokenrelay:{auth}:*"
FEEDS, WORKERS, CHANGES = "tokenrelay:feed:*", "tokenrelay:worker:*", "tokenrelay:auth"
GREETING = ("auth", "client|setinfo", "client|setname", "hello", "ping", "eval", "evalsha", "time")


@dataclass(frozen=True)
class Rights:
    """What a kind of process needs.

    Attributes:
        scripts: those that it runs.
        commands: those that it sends beside them; a subcommand as "xinfo|groups".
        writes: patterns of keys that it reads and writes.
        reads: patterns of keys that it only reads.
        channels: patterns of channels.
    """

    scripts: Sequence[str]
    commands: Sequence[str]
    writes: Sequence[str]
    reads: Sequence[str]
    channels: Sequence[str]


class RedisUser(Enum):
    """A kind of process, by the name of its user."""

    GATEWAY = "gateway"
    WORKER = "worker"
    ADMIN = "admin"


RIGHTS: Mapping[RedisUser, Rights] = {
    RedisUser.GATEWAY: Rights(
        scripts=("cancel", "peek", "reap", "renew_readers", "set_aside", "submit", "unbroken"),
        commands=("hgetall", "hmget", "subscribe", "xinfo|groups", "xrange", "xread"),
        writes=(SHARD_KEYS,),
        reads=(REGISTRY_KEYS, AUTH_KEYS),
        channels=(FEEDS, WORKERS, CHANGES),
    ),
    RedisUser.WORKER: Rights(
        scripts=("announce", "append", "claim", "finish", "forget", "reap", "remove", "renew", "requeue", "set_aside"),
        commands=(
            *("hgetall", "hmget", "subscribe", "xrange", "xread", "xreadgroup"),
            *("xgroup|create", "xgroup|delconsumer", "xinfo|groups", "xinfo|consumers", "xpending"),
        ),
        writes=(SHARD_KEYS, REGISTRY_KEYS),
        reads=(),
        channels=(FEEDS, WORKERS),
    ),
    RedisUser.ADMIN: Rights(
        scripts=("discard", "save_identity", "set_aside", "submit"),
        commands=("hgetall", "smembers", "xrange", "xrevrange"),
        writes=(SHARD_KEYS, AUTH_KEYS),
        reads=(REGISTRY_KEYS,),
        channels=(FEEDS, WORKERS, CHANGES),
    ),
}


@cache
def commands_of(user: RedisUser) -> list[str]:
    """Returns the commands that a user sends itself or through its scripts, in lower case and sorted."""
    rights = RIGHTS[user]
    called = {name for script in (*SHARED, *rights.scripts) for name in _called(script)}
    # A script names a subcommand apart from its command, so that it gets all of them there.
    named = {*GREETING, *rights.commands, *called}
    return sorted(one for one in named if one.partition("|")[0] == one or one.partition("|")[0] not in named)


def may_send(user: RedisUser, url: str, command: Sequence[str]) -> bool:
    """Tells whether a process sends a command.

    Args:
        user: the kind of process.
        url: where it finds Redis. Who has a user of ours there does not ask for what that may not; others ask for Redis'
            settings, to warn of those that break promises.
        command: its name, and perhaps that of its subcommand.
    """
    if command[0] == "CONFIG":
        return not url.partition("://")[2].startswith((f"{user.value}@", f"{user.value}:"))
    first, name = command[0].lower(), f"{command[0]}|{command[1] if len(command) > 1 else ''}".lower()
    return bool({first, name} & set(commands_of(user)))


def _called(script: str) -> Iterator[str]:
    text = (resources.files("tokenrelay.store") / "scripts" / f"{script}.lua").read_text()
    for name in CALL.findall(text):
        yield name.lower()


def acl_line(user: RedisUser, digests: Iterable[str]) -> str:
    """Returns a user's line of Redis' aclfile, for Redis 7.0 and newer.

    Args:
        user: whose.
        digests: SHA-256 of each of its passwords, in hexadecimal; several while a password is being changed.
    """
    rights = RIGHTS[user]
    return " ".join(
        (
            *("user", user.value, "reset", "on", *(f"#{digest}" for digest in digests)),
            *(f"~{pattern}" for pattern in rights.writes),
            *(f"%R~{pattern}" for pattern in rights.reads),
            *(f"&{pattern}" for pattern in rights.channels),
            *("-@all", *(f"+{command}" for command in commands_of(user))),
        )
    )
