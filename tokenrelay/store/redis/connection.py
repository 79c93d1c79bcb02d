"""The connection to Redis: commands and scripts, repeated while Redis is away.

What is repeated is either a read or one of our scripts, which are idempotent; redis-py, which would send any write twice
after a lost reply, only opens connections.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import structlog
from redis.exceptions import AuthenticationError, InvalidResponse, NoScriptError, RedisError, ResponseError

from tokenrelay.backoff import Backoff
from tokenrelay.clock import PeerClock
from tokenrelay.errors import StoreUnavailableError, TokenrelayError
from tokenrelay.store.redis import errors, server_check, subscription
from tokenrelay.store.redis.blocking_reads import BlockingReads
from tokenrelay.store.redis.link import ANSWER_TIMEOUT, Link
from tokenrelay.store.redis.pipe import PipeClosedError, RedisPipe
from tokenrelay.store.redis.scripts import Reply, Script, ScriptCall
from tokenrelay.store.redis.shared_pipe import SharedPipe
from tokenrelay.store.redis.streams import Streams

log = structlog.get_logger(__name__)

SHORTEST_TRY = 1.0  # seconds that a first try may take, however short the patience is
FIRST_DELAY, LONGEST_DELAY = 0.02, 0.5  # seconds between tries
COMPLAINT_INTERVAL = 10.0  # seconds between log lines about what Redis refuses


class RedisConnection:
    """Runs commands and scripts on one Redis, and knows what time it is there.

    Scripts share one connection and reads another, so that a long log does not hold up a frame.

    Args:
        url: redis://, rediss:// or unix://, with user name, password and database as usual.
        patience: seconds for which a call is tried again while Redis is away.
        block: seconds for which a blocking read blocks.

    Raises:
        StoreUnfitError: the URL is wrong.
    """

    def __init__(self, url: str, *, patience: float, block: float = 1.0) -> None:
        self.clock = PeerClock()
        self.patience = patience
        self._link = Link(url)
        self._scripts = SharedPipe(self._link.open)
        self._reads = SharedPipe(self._link.open)
        self._blocking = BlockingReads(self._link.open)
        self.streams = Streams(self.command, self.commands, self._read_blocking, block)
        self._complained: dict[str, float] = {}
        self._closed = False

    async def close(self) -> None:
        """Closes all connections; calls that wait or come later fail with StoreUnavailableError."""
        self._closed = True
        self._link.close()
        self._scripts.close()
        self._reads.close()

    async def wait_until_ready(self) -> None:
        """Returns once Redis answers and takes writes; says what it waits for.

        Raises:
            StoreUnfitError: Redis refuses the credentials, lacks a permission or is too old; waiting would not help.
        """
        told, backoff = "", Backoff(FIRST_DELAY, LONGEST_DELAY)
        while True:
            try:
                await self.attempt(self._check_server, ANSWER_TIMEOUT)
                await self.read_clock()
            except StoreUnavailableError as error:
                if error.message != told:
                    log.warning("waiting for redis", reason=error.message, cause=str(error.__cause__ or ""))
                    told = error.message
                await asyncio.sleep(backoff.next_delay())
            else:
                return

    async def _check_server(self) -> None:
        try:
            pipe = await self._scripts.get()
        except AuthenticationError:
            raise errors.StoreUnfitError("TOKENRELAY_REDIS_URL: redis refuses the user name or password") from None
        except InvalidResponse:
            raise errors.StoreUnfitError("TOKENRELAY_REDIS_URL: what answers there does not speak Redis' protocol") from None
        except RedisError as error:
            known = errors.known_of(error)
            if isinstance(error, ResponseError) and known.meaning in {errors.Meaning.UNEXPECTED, errors.Meaning.REFUSED}:
                # To the greeting itself, so that no later one would be answered otherwise: a database that is not there.
                raise errors.StoreUnfitError(f"TOKENRELAY_REDIS_URL: redis refuses the connection: {error}") from None
            raise
        await server_check.check(pipe, self._link.greeting)

    async def read_clock(self) -> None:
        """Reads Redis' clock; raises StoreUnavailableError if Redis does not answer now."""
        asked = time.monotonic_ns()
        seconds, microseconds = await self.command("TIME", patience=0)
        self.clock.observe(asked, (int(seconds) * 1_000_000 + int(microseconds)) * 1000, time.monotonic_ns())

    async def run(self, script: Script, prefix: str, *arguments: Any, patience: float | None = None) -> list[Any]:
        """Runs a script and returns its reply without the leading instant, which goes to the clock.

        Raises:
            StoreUnavailableError: Redis stayed away for longer than the patience. The script may have run.
            StoreFullError: Redis is out of memory.
            NoSuchGroupError, UnexpectedReplyError: both StoreUnavailableErrors; the call is not repeated.
        """
        (reply,) = await self.run_together([(script, prefix, arguments)], patience)
        return reply.items

    async def run_together(self, calls: Sequence[ScriptCall], patience: float | None = None) -> list[Reply]:
        """Runs several scripts in order over one round trip; otherwise as run."""
        replies: list[Reply] = await self._repeated(lambda: self._evaluate(calls), patience)
        return replies

    async def _evaluate(self, calls: Sequence[ScriptCall]) -> list[Reply]:
        pipe = await self._scripts.get()
        started = time.monotonic_ns()
        try:
            replies = await _all(pipe, [("EVALSHA", script.digest, 1, prefix, *rest) for script, prefix, rest in calls])
        except NoScriptError:
            # In order, so that what comes after an unknown one comes after it once more; our scripts may run twice.
            replies = [await pipe.call("EVAL", script.source, 1, prefix, *rest) for script, prefix, rest in calls]
        self.clock.observe(started, int(replies[0][0]) * 1000, time.monotonic_ns())
        return [Reply(int(reply[0]), reply[1:]) for reply in replies]

    async def hash(self, key: str, patience: float | None = None) -> dict[bytes, bytes]:
        """Reads a hash; empty if there is none."""
        fields: dict[bytes, bytes] = await self.command("HGETALL", key, patience=patience)
        return fields

    async def fields(self, key: str, *names: str) -> list[bytes | None]:
        """Reads some fields of a hash; None for those that are not there."""
        found: list[bytes | None] = await self.command("HMGET", key, *names)
        return found

    async def command(self, *arguments: Any, patience: float | None = None) -> Any:
        """Sends a command that may be repeated, and returns its reply; raises as run."""
        (reply,) = await self.commands([arguments], patience)
        return reply

    async def commands(self, several: Sequence[Sequence[Any]], patience: float | None = None) -> list[Any]:
        """Sends several commands that may be repeated over one round trip; raises the first error as run."""

        async def send() -> list[Any]:
            return await _all(await self._reads.get(), several)

        replies: list[Any] = await self._repeated(send, patience)
        return replies

    async def _read_blocking(self, arguments: Sequence[Any], timeout: float) -> Any:
        """Sends a command that may block, once; raises as run."""
        return await self.attempt(lambda: self._blocking.call(*arguments), timeout)

    def subscribe(self, channel: str) -> AsyncIterator[list[bytes] | None]:
        """Yields a channel's messages as they come, and None whenever some may be lost: at the start and after a reconnect."""
        return subscription.messages(self.attempt, self._link.open, channel)

    async def _repeated(self, call: Callable[[], Awaitable[Any]], patience: float | None) -> Any:
        """Calls until it goes through or the patience, in seconds, is over; None: the connection's."""
        patience = self.patience if patience is None else patience
        give_up_at = time.monotonic() + patience
        limit = max(patience, SHORTEST_TRY)
        backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)
        while True:
            try:
                # Each try has what is left, so that a Redis that stands still is not waited for longer than one that is gone.
                return await self.attempt(call, min(limit, ANSWER_TIMEOUT))
            except (errors.NoSuchGroupError, errors.UnexpectedReplyError):
                raise
            except StoreUnavailableError:
                if self._closed or time.monotonic() + (delay := backoff.next_delay()) > give_up_at:
                    raise
            await asyncio.sleep(delay)
            limit = give_up_at - time.monotonic()

    async def attempt(self, call: Callable[[], Awaitable[Any]], timeout: float) -> Any:
        """Calls once, for some seconds at most; what Redis, redis-py or a pipe say becomes an error of ours.

        Raises:
            StoreUnavailableError, StoreFullError: as run.
        """
        if self._closed:
            raise errors.away(errors.STOPPING)
        try:
            async with asyncio.timeout(timeout):
                return await call()
        except TimeoutError as error:
            raise errors.away("Redis does not answer") from error
        except PipeClosedError as error:
            raise errors.away() from error
        except RedisError as error:
            raise self._judged(error) from error

    def _judged(self, error: RedisError) -> TokenrelayError:
        known = errors.known_of(error)
        if known.meaning is errors.Meaning.NOT_HERE:
            self._link.leave()
        elif known.meaning in {errors.Meaning.REFUSED, errors.Meaning.UNEXPECTED}:
            self._complain(known.text, error)
        return errors.translated(error)

    def _complain(self, text: str, error: RedisError) -> None:
        """Writes what Redis said, but not once for each of a thousand callers."""
        now, said = time.monotonic(), str(error)
        if now - self._complained.get(text, -COMPLAINT_INTERVAL) >= COMPLAINT_INTERVAL:
            self._complained[text] = now
            log.error("redis refuses a command", meaning=text, said=said)


async def _all(pipe: RedisPipe, several: Sequence[Sequence[Any]]) -> list[Any]:
    """Sends commands, waits for all replies, and raises the first error then."""
    sent = [pipe.call(*arguments) for arguments in several]
    replies = await asyncio.gather(*sent, return_exceptions=True) if len(sent) > 1 else [await one for one in sent]
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies
