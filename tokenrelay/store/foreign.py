"""What lies at our keys and is none of ours: it is set aside or passed over with a log line, and ends no process."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError

from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import UnexpectedReplyError
from tokenrelay.store.scripting import NamedScript

log = structlog.get_logger(__name__)

BROKEN = (KeyError, ValueError, DecodeError)  # what reading a damaged value raises

Found = TypeVar("Found")


class SharedKeys:
    """Reads keys that many generations share.

    A generation's own keys are another matter: if one of them is damaged, the generation's readers are told so.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._set_aside = NamedScript.load("set_aside")
        self._reported: set[tuple[str, bytes]] = set()

    async def read(self, prefix: str, kinds: dict[str, str], read: Callable[[], Awaitable[Found]]) -> Found | None:
        """Reads; if the keys hold what is none of ours, sets that aside and returns None.

        Args:
            prefix: of the shard.
            kinds: the keys that are read, each with the type that it must have.
            read: what reads them.
        """
        try:
            return await read()
        except UnexpectedReplyError:
            calls = [self._set_aside.call(prefix, {"key": key, "kind": kind}) for key, kind in kinds.items()]
            names = [bytes(reply.items[0]) for reply in await self._connection.run_together(calls)]
            if not any(names):
                raise  # it is something else
            for key, name in zip(kinds, names, strict=True):
                if name:
                    report_aside(key, name)
            return None

    def report_once(self, key: str, field: bytes, error: Exception) -> None:
        """Writes one log line of a field that is read again and again."""
        if (key, field) not in self._reported:
            self._reported.add((key, field))
            log.error("foreign data is passed over", key=key, field=field[:200], reason=repr(error))


def report_aside(key: str, name: bytes) -> None:
    """Writes the log line of a key that was set aside."""
    log.error("foreign data was set aside", key=key, kept_as=name.decode(errors="replace"))
