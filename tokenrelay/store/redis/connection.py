"""The connection to Redis: commands and scripts, repeated while Redis is away.

redis-py's own retries are off: it would send a write twice after a lost reply. What is retried here is either a read
or one of our scripts, which are idempotent.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import redis.asyncio
import structlog
from redis._parsers.base import BaseParser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, OutOfMemoryError, RedisError, ResponseError

from tokenrelay.backoff import Backoff
from tokenrelay.clock import PeerClock
from tokenrelay.errors import StoreFullError, StoreUnavailableError
from tokenrelay.store.redis import subscription
from tokenrelay.store.redis.blocking_reads import BlockingReads
from tokenrelay.store.redis.errors import NoSuchGroupError, StoreUnfitError, is_transient, of_closed_transport
from tokenrelay.store.redis.pipe import PipeClosedError, RedisPipe
from tokenrelay.store.redis.scripts import Reply, Script, ScriptCall
from tokenrelay.store.redis.streams import Streams

log = structlog.get_logger(__name__)

COMMAND_TIMEOUT = 10.0  # seconds; a slow fsync is waited for, a half-open connection is not
CONNECT_TIMEOUT = 2.0  # seconds
MOST_COMMANDS = 64  # under way at a time, each on a connection of its own; more wait here
FIRST_BACKOFF, LONGEST_BACKOFF = 0.02, 0.5  # seconds between tries
OLDEST_VERSION = (7, 0)


class RedisConnection:
    """Runs commands and scripts on one Redis, and knows what time it is there.

    Args:
        url: redis:// or rediss://, with user name, password and database as usual.
        patience: seconds for which a call is tried again while Redis is away.
    """

    def __init__(self, url: str, *, patience: float, block: float = 1.0) -> None:
        self.clock = PeerClock()
        self.streams = Streams(self)
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
            StoreUnfitError: Redis refuses the credentials or is too old; waiting would not help.
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
            StoreUnfitError: Redis is too old or refuses the credentials.
        """
        try:
            info = await self._once(lambda: self._commands.info("server"))
        except AuthenticationError as error:
            raise StoreUnfitError("redis refuses the user name or password") from error
        version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
        if version < OLDEST_VERSION:
            raise StoreUnfitError(f"redis is {info['redis_version']}; 7.0 or newer is needed")
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
        backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
        while True:
            try:
                return await once(call)
            except StoreUnavailableError:
                if time.monotonic() + (delay := backoff.next_delay()) > give_up_at:
                    raise
            await asyncio.sleep(delay)

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
            raise of_closed_transport(error) from error
        except RedisError as error:
            if isinstance(error, ResponseError) and str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise NoSuchGroupError("a queue is missing", retry_after=1.0) from error
            if is_transient(error):
                raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0) from error
            raise

    def subscribe(self, channel: str) -> AsyncIterator[list[bytes] | None]:
        """Yields a channel's messages as they come, and None whenever some may be lost: at the start and after a reconnect."""
        return subscription.messages(self._open_for_pushes, channel)

    async def _open_for_pushes(self, on_push: Callable[[list[Any] | None], None]) -> RedisPipe:
        pipe: RedisPipe = await self._now(lambda: self._open_pipe(on_push), COMMAND_TIMEOUT)
        return pipe


async def _all(sent: Sequence["asyncio.Future[Any]"]) -> list[Any]:
    """Waits for all replies, and raises the first error then."""
    replies = await asyncio.gather(*sent, return_exceptions=True) if len(sent) > 1 else [await sent[0]]
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies


def _underscored(names: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in names.items()}
