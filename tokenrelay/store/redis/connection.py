"""The connection to Redis: scripts, blocking reads and channels; the only module that imports redis.

redis-py's own retries are off: it would send a write twice after a lost reply. What is retried here is either a read
or one of our scripts, which are idempotent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from importlib import resources
from itertools import chain
from typing import Any, NamedTuple, TypeAlias, cast

import redis
import redis.asyncio
import redis.retry
import structlog
from redis._parsers.base import BaseParser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenrelay.clock import PeerClock
from tokenrelay.errors import StoreFullError, StoreUnavailableError
from tokenrelay.store.redis.blocking_reads import BlockingReads
from tokenrelay.store.redis.pipe import PipeClosedError, RedisPipe

log = structlog.get_logger(__name__)

COMMAND_TIMEOUT = 10.0  # seconds; a slow fsync is waited for, a half-open connection is not
CONNECT_TIMEOUT = 2.0  # seconds
THREAD_TIMEOUT = 2.0  # seconds for a call of a ThreadConnection
BLOCK_MARGIN = 5.0  # seconds that a blocking read waits longer than Redis blocks
MOST_COMMANDS = 64  # under way at a time, each on a connection of its own; more wait here
PENDING_PAGE = 200  # pending entries looked at in one go
PING_INTERVAL, SILENCE = 2.0, 7.0  # seconds without a message until a ping, and until a subscription counts as broken
FIRST_BACKOFF, LONGEST_BACKOFF = 0.02, 0.5  # seconds between tries
OLDEST_VERSION = (6, 2)
# Error replies that mean "not now": Redis loads its file, cannot write its disk, has no master, or changes roles.
TRANSIENT_REPLIES = ("LOADING", "MISCONF", "MASTERDOWN", "READONLY", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS", "BUSY ")


class NoSuchGroupError(Exception):
    """The stream or its consumer group does not exist."""


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


def is_transient(error: RedisError) -> bool:
    """Tells whether the same call may go through later."""
    if isinstance(error, AuthenticationError):
        return False
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(TRANSIENT_REPLIES)


def _of_closed_transport(error: RuntimeError) -> StoreUnavailableError:
    """Returns what it means that uvloop was to write on a connection that had just been reset; asyncio's loop only warns.

    Raises:
        RuntimeError: the error itself, if it is another one.
    """
    if "closed" not in str(error):
        raise error
    return StoreUnavailableError("Redis cannot be reached", retry_after=1.0)


class RedisConnection:
    """Runs commands and scripts on one Redis, and knows what time it is there.

    Args:
        url: redis:// or rediss://, with user name, password and database as usual.
        patience: seconds for which a call is tried again while Redis is away.
    """

    def __init__(self, url: str, *, patience: float, block: float = 1.0) -> None:
        self.clock = PeerClock()
        self.patience = patience
        self._block = block
        self._closed = False
        # redis-py's own timeouts are off: before Python 3.12 they swallow a cancel that comes while a command is sent
        # (asyncio.wait_for returns a result that is there instead of raising). Ours are in _once.
        options: dict[str, Any] = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "protocol": 3,
        }
        self._commands = redis.asyncio.Redis.from_url(url, **options)
        self._slots = asyncio.Semaphore(MOST_COMMANDS)
        self._blocking = BlockingReads(self._open_pipe)
        self._pipe: RedisPipe | None = None
        self._piping = asyncio.Lock()

    async def close(self) -> None:
        """Closes all connections; calls that come later fail, since redis-py would connect anew."""
        self._closed = True
        if self._pipe is not None:
            self._pipe.close()
        self._blocking.close()
        await self._commands.aclose()

    async def wait_until_ready(self) -> None:
        """Returns once Redis answers; says what it waits for.

        Raises:
            RuntimeError: Redis refuses the credentials or is too old; waiting would not help.
        """
        announced = False
        while True:
            try:
                await self._check_server()
            except StoreUnavailableError as error:
                if not announced:
                    log.warning("waiting for redis", reason=error.message)
                    announced = True
                await asyncio.sleep(LONGEST_BACKOFF)
            else:
                return

    async def _check_server(self) -> None:
        """Checks the version, and warns of settings that break promises.

        Raises:
            StoreUnavailableError: Redis is away.
            RuntimeError: Redis is too old or refuses the credentials.
        """
        try:
            info = await self._once(lambda: self._commands.info("server"))
        except AuthenticationError as error:
            raise RuntimeError("redis refuses the user name or password") from error
        version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
        if version < OLDEST_VERSION:
            raise RuntimeError(f"redis is {info['redis_version']}; 6.2 or newer is needed")
        await self.read_clock()
        # While Redis loads its file it answers all the others, but not this one.
        await self._once(lambda: self._commands.exists("tokenrelay:nothing"))
        await self._warn_if_not_durable()

    async def _warn_if_not_durable(self) -> None:
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        try:
            # One at a time: Redis before 7 takes only one.
            found = {name: (await self._once(partial(self._commands.config_get, name))).get(name) for name in wanted}
        except ResponseError:
            log.warning("redis does not show its configuration; promises need these settings", **_underscored(wanted))
            return
        wrong = {name: found[name] for name, value in wanted.items() if found[name] != value}
        if wrong:
            log.warning("redis may lose acknowledged tokens", found=wrong, wanted={name: wanted[name] for name in wrong})

    async def read_clock(self) -> None:
        """Reads Redis' clock; raises StoreUnavailableError if Redis does not answer now."""
        asked = time.monotonic_ns()
        seconds, microseconds = await self._once(self._commands.time)
        self.clock.observe(asked, (seconds * 1_000_000 + microseconds) * 1000, time.monotonic_ns())

    async def run(self, script: Script, prefix: str, *arguments: Any, patience: float | None = None) -> list[Any]:
        """Runs a script and returns its reply without the leading instant, which goes to the clock.

        Raises:
            StoreUnavailableError: Redis stayed away for longer than the patience. The script may have run.
            StoreFullError: Redis is out of memory.
        """
        (reply,) = await self.run_together([(script, prefix, arguments)], patience)
        return reply.items

    async def run_together(self, calls: Sequence[ScriptCall], patience: float | None = None) -> list[Reply]:
        """Runs several scripts in order over one round trip; otherwise as run."""
        replies: list[Reply] = await self._retried(lambda: self._evaluate(calls), patience, self._translated)
        return replies

    async def _evaluate(self, calls: Sequence[ScriptCall]) -> list[Reply]:
        pipe = await self._piped()
        started = time.monotonic_ns()
        sent = [pipe.call("EVALSHA", script.digest, 1, prefix, *arguments) for script, prefix, arguments in calls]
        try:
            replies = await _all(sent)
        except NoScriptError:
            # In order, so that what comes after an unknown one comes after it once more; our scripts may run twice.
            replies = [await pipe.call("EVAL", script.source, 1, prefix, *arguments) for script, prefix, arguments in calls]
        self.clock.observe(started, int(replies[0][0]) * 1000, time.monotonic_ns())
        return [Reply(int(reply[0]), reply[1:]) for reply in replies]

    async def _piped(self) -> RedisPipe:
        """Returns the connection that scripts share."""
        if self._pipe is None or self._pipe.closed:
            async with self._piping:
                if self._pipe is None or self._pipe.closed:
                    self._pipe = await self._now(self._open_pipe, COMMAND_TIMEOUT)
        return self._pipe

    async def _open_pipe(self, on_push: Callable[[list[Any] | None], None] | None = None) -> RedisPipe:
        opened: Any = self._commands.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await opened.connect()
        return RedisPipe(opened, BaseParser.parse_error, COMMAND_TIMEOUT, on_push)

    async def hash(self, key: str, patience: float | None = None) -> dict[bytes, bytes]:
        """Reads a hash; empty if there is none."""
        fields: dict[bytes, bytes] = await self._retried(lambda: self._commands.hgetall(key), patience)
        return fields

    async def fields(self, key: str, *names: str) -> list[bytes | None]:
        """Reads some fields of a hash; None for those that are not there."""
        found: list[bytes | None] = await self._retried(lambda: self._commands.hmget(key, names))
        return found

    async def _retried(
        self,
        call: Callable[[], Awaitable[Any]],
        patience: float | None = None,
        once: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]] | None = None,
    ) -> Any:
        """Calls until it goes through or the patience is over.

        Args:
            call: what is to be done.
            patience: seconds; None: the connection's.
            once: how it is done once; None: for a bounded time, when there is a slot.
        """
        once = once or self._once
        patience = self.patience if patience is None else patience
        give_up_at = time.monotonic() + (0 if self._closed else patience)
        backoff = FIRST_BACKOFF
        while True:
            try:
                return await once(call)
            except StoreUnavailableError:
                if time.monotonic() + backoff > give_up_at:
                    raise
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    async def _once(self, call: Callable[[], Awaitable[Any]], timeout: float = COMMAND_TIMEOUT) -> Any:
        """Calls once, as soon as there is a slot."""
        async with self._slots:
            return await self._now(call, timeout)

    async def _now(self, call: Callable[[], Awaitable[Any]], timeout: float) -> Any:
        """Calls once, for a bounded time."""
        try:
            async with asyncio.timeout(timeout):
                return await self._translated(call)
        except TimeoutError as error:
            raise StoreUnavailableError("Redis does not answer", retry_after=1.0) from error

    async def _translated(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Calls, and translates what redis-py and the pipe raise."""
        if self._closed:
            raise StoreUnavailableError("this process is stopping")
        try:
            return await call()
        except OutOfMemoryError as error:
            raise StoreFullError("Redis is out of memory", retry_after=1.0) from error
        except PipeClosedError as error:
            raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0) from error
        except RuntimeError as error:
            raise _of_closed_transport(error) from error
        except RedisError as error:
            if isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise NoSuchGroupError from error
            if is_transient(error):
                raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0) from error
            raise

    async def ensure_group(self, stream: str, group: str) -> None:
        """Creates a stream's consumer group at its beginning, so that no entry is passed over, unless it is there.

        Raises:
            StoreFullError: it is not there, and Redis is out of memory.
        """
        if await self._group(stream, group) is not None:
            return  # when Redis is out of memory it would refuse even to say so
        try:
            await self._retried(lambda: self._commands.xgroup_create(stream, group, id="0", mkstream=True))
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _group(self, stream: str, group: str) -> Mapping[str, Any] | None:
        try:
            groups = await self._retried(lambda: self._commands.xinfo_groups(stream))
        except ResponseError:
            return None  # there is no such stream
        return next((found for found in groups if found["name"] == group.encode()), None)

    async def read_group(
        self, group: str, consumer: str, streams: Sequence[str], count: int, *, block: bool
    ) -> list[tuple[str, str, Mapping[bytes, bytes]]]:
        """Reads entries that no consumer has, from the first stream first.

        Returns:
            (stream, entry id, fields) in reading order; empty if none came before Redis stopped blocking.

        Raises:
            NoSuchGroupError: a stream or its group has vanished.
            StoreUnavailableError: Redis is away. Entries may have been handed to the consumer all the same.
        """
        blocking = ("BLOCK", round(self._block * 1000)) if block else ()
        command = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *blocking)
        reply = await self._now(
            lambda: self._blocking.call(*command, "STREAMS", *streams, *(">" for _ in streams)), self._block + BLOCK_MARGIN
        )
        return [
            (stream.decode(), entry.decode(), dict(zip(fields[::2], fields[1::2], strict=True)))
            for stream, entries in (reply or {}).items()
            for entry, fields in entries
        ]

    async def range(self, stream: str, after: str, count: int) -> list[tuple[str, Mapping[bytes, bytes]]]:
        """Reads entries of a stream after an entry id."""
        reply = await self._retried(lambda: self._commands.xrange(stream, min=f"({after}", count=count))
        return [(entry.decode(), fields) for entry, fields in reply]

    async def first_unread(self, stream: str, group: str) -> str | None:
        """Returns the id of a stream's first entry that no consumer of a group has read; None if there is none."""
        found = await self._group(stream, group)
        unread = await self.range(stream, found["last-delivered-id"].decode(), 1) if found else []
        return unread[0][0] if unread else None

    async def consumers(self, stream: str, group: str) -> list[tuple[str, int]]:
        """Returns a group's consumers, each with how many entries hang on it; empty if there is no such group."""
        try:
            found = await self._retried(lambda: self._commands.xinfo_consumers(stream, group))
        except (ResponseError, NoSuchGroupError):
            return []
        return [(consumer["name"].decode(), consumer["pending"]) for consumer in found]

    async def pending(self, stream: str, group: str, consumer: str, idle_ms: int) -> list[tuple[str, Mapping[bytes, bytes]]]:
        """Returns entries that hang on a consumer for some time, without those whose content is gone."""
        entries: list[tuple[str, Mapping[bytes, bytes]]] = []
        begin = "-"
        while True:
            page = await self._retried(partial(self._pending_page, stream, group, consumer, idle_ms, begin))
            names = [one["message_id"] for one in page]
            found = await self._retried(partial(self._entries, stream, names))
            entries += [(entry.decode(), fields) for (entry, fields) in chain.from_iterable(found)]
            if len(page) < PENDING_PAGE:
                return entries
            begin = f"({names[-1].decode()}"

    async def _pending_page(self, stream: str, group: str, consumer: str, idle_ms: int, begin: str) -> Any:
        return await self._commands.xpending_range(
            stream, group, min=begin, max="+", count=PENDING_PAGE, consumername=consumer, idle=idle_ms
        )

    async def _entries(self, stream: str, names: Sequence[bytes]) -> list[Any]:
        async with self._commands.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.xrange(stream, name, name)
            found: list[Any] = await pipeline.execute()
            return found

    async def newer(self, positions: Mapping[str, str]) -> set[str]:
        """Returns which of some streams have entries after a position."""
        reply = await self._retried(lambda: self._commands.xread(cast("dict[Any, Any]", positions), count=1))
        found = reply.keys() if isinstance(reply, dict) else [stream for stream, _ in reply or []]
        return {stream.decode() for stream in found}

    async def subscribe(self, channel: str) -> AsyncIterator[list[bytes] | None]:
        """Yields a channel's messages as they come, and None whenever some may be lost: at the start and after a reconnect."""
        backoff = FIRST_BACKOFF
        while True:
            try:
                async for messages in self._messages(channel):
                    backoff = FIRST_BACKOFF
                    yield messages
            except StoreUnavailableError as error:
                log.debug("subscription broken", reason=error.message)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    async def _messages(self, channel: str) -> AsyncIterator[list[bytes] | None]:
        """Yields one connection's messages until it ends, first None once it is subscribed.

        Raises:
            StoreUnavailableError: there is no connection, or not even a ping was answered.
            RedisError: Redis refuses the subscription.
        """
        inbox = Inbox()
        pipe = await self._now(lambda: self._open_pipe(inbox.put), COMMAND_TIMEOUT)
        try:
            pipe.send("SUBSCRIBE", channel)
            while True:
                messages = await inbox.take(PING_INTERVAL)
                if pipe.closed:
                    break
                if inbox.subscribed:
                    inbox.subscribed = False
                    yield None
                if messages:
                    yield messages
                elif time.monotonic() - pipe.heard > SILENCE:
                    raise StoreUnavailableError("Redis does not answer pings")
                else:
                    pipe.call("PING")
            if isinstance(pipe.refusal, RedisError) and not is_transient(pipe.refusal):
                raise pipe.refusal
        except PipeClosedError as error:
            raise StoreUnavailableError("Redis cannot be reached") from error
        finally:
            pipe.close()


class Inbox:
    """What has come on a channel and was not yet taken."""

    def __init__(self) -> None:
        self.subscribed = False
        self._messages: list[bytes] = []
        self._come = asyncio.Event()

    def put(self, push: list[Any] | None) -> None:
        """Takes what Redis has pushed: that we are subscribed, or a message; None: nothing comes any more."""
        if push is not None and push[0] == b"message":
            self._messages.append(push[2])
        elif push is not None and push[0] == b"subscribe":
            self.subscribed = True
        self._come.set()

    async def take(self, timeout: float) -> list[bytes]:
        """Returns what has come as soon as there is something; nothing after some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._come.wait()
        self._come.clear()
        messages, self._messages = self._messages, []
        return messages


class ThreadConnection:
    """Runs scripts from a thread of its own, whatever the event loop does."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(
            url,
            retry=redis.retry.Retry(NoBackoff(), 0),
            socket_timeout=THREAD_TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
        )

    def run(self, script: Script, prefix: str, arguments: Sequence[Any]) -> None:
        """Runs a script once.

        Raises:
            StoreUnavailableError: Redis is away. The script may have run.
        """
        try:
            try:
                self._redis.evalsha(script.digest, 1, prefix, *arguments)
            except NoScriptError:
                self._redis.eval(script.source, 1, prefix, *arguments)
        except RedisError as error:
            raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0) from error

    def close(self) -> None:
        self._redis.close()


async def _all(sent: Sequence["asyncio.Future[Any]"]) -> list[Any]:
    """Waits for all replies, and raises the first error then."""
    replies = await asyncio.gather(*sent, return_exceptions=True) if len(sent) > 1 else [await sent[0]]
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies


def _underscored(names: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in names.items()}
