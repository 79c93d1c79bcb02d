"""The connection to Redis: commands and scripts, repeated while Redis is away.

What is repeated is either a read or one of our scripts, which are idempotent; redis-py, which would send any write twice
after a lost reply, only opens connections.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog
from redis.exceptions import AuthenticationError, InvalidResponse, NoScriptError, RedisError, ResponseError

from tokenrelay.backoff import Backoff
from tokenrelay.clock import PeerClock
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis import errors, server_check, subscription
from tokenrelay.store.redis.blocking_reads import BlockingReads
from tokenrelay.store.redis.link import ANSWER_TIMEOUT, Link
from tokenrelay.store.redis.pipe import RedisPipe
from tokenrelay.store.redis.scripts import Reply, Script, ScriptCall
from tokenrelay.store.redis.shared_pipe import SharedPipe
from tokenrelay.store.redis.streams import Streams
from tokenrelay.store.redis.tries import Tries

log = structlog.get_logger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.02, 0.5  # seconds between tries


class RedisConnection:
    """Runs commands and scripts on one Redis, and knows what time it is there.

    Scripts share one connection and reads another, so that a long log does not hold up a frame.

    Args:
        url: redis://, rediss:// or unix://, with user name, password and database as usual.
        patience: seconds for which a call is tried again while Redis is away.
        block: seconds for which a blocking read blocks.
        password_file: as for Link.
        sends: tells which commands this process needs; without them Redis is unfit.

    Raises:
        StoreUnfitError: the URL is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        patience: float,
        block: float = 1.0,
        password_file: str | None = None,
        sends: Callable[[Sequence[str]], bool] = lambda _: True,
    ) -> None:
        self._sends = sends
        self.clock = PeerClock()
        self.patience = patience
        self._link = Link(url, password_file)
        self._tries = Tries(self._link, patience)
        self._scripts = SharedPipe(self._link.open)
        self._reads = SharedPipe(self._link.open)
        self._blocking = BlockingReads(self._link.open)
        self.streams = Streams(self.command, self.commands, self._read_blocking, block)

    async def close(self) -> None:
        """Closes all connections; calls that wait or come later fail with StoreUnavailableError."""
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
                await self._tries.once(self._check_server, ANSWER_TIMEOUT)
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
        await server_check.check(pipe, self._link.greeting, self._sends)

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
        replies: list[Reply] = await self._tries.repeated(lambda: self._evaluate(calls), patience)
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

        replies: list[Any] = await self._tries.repeated(send, patience)
        return replies

    async def _read_blocking(self, arguments: Sequence[Any], timeout: float) -> Any:
        """Sends a command that may block, once; raises as run."""
        return await self._tries.once(lambda: self._blocking.call(*arguments), timeout)

    def subscribe(self, channel: str) -> AsyncIterator[list[bytes] | None]:
        """Yields a channel's messages as they come, and None whenever some may be lost: at the start and after a reconnect."""
        return subscription.messages(self._tries.once, self._link.open, channel)


async def _all(pipe: RedisPipe, several: Sequence[Sequence[Any]]) -> list[Any]:
    """Sends commands, waits for all replies, and raises the first error then."""
    sent = [pipe.call(*arguments) for arguments in several]
    replies = await asyncio.gather(*sent, return_exceptions=True) if len(sent) > 1 else [await one for one in sent]
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies
