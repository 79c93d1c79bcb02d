"""Calls of Redis that are tried once or again and again, with a bound on how long the caller waits."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from redis.exceptions import RedisError

from tokenrelay.backoff import Backoff
from tokenrelay.errors import StoreUnavailableError, TokenrelayError
from tokenrelay.store.redis import errors
from tokenrelay.store.redis.link import ANSWER_TIMEOUT, Link
from tokenrelay.store.redis.pipe import PipeClosedError

log = structlog.get_logger(__name__)

SHORTEST_TRY = 1.0  # seconds that a first try may take, however short the patience is
FIRST_DELAY, LONGEST_DELAY = 0.02, 0.5  # seconds between tries
COMPLAINT_INTERVAL = 10.0  # seconds between log lines about what Redis refuses


class Tries:
    """Makes errors of ours of what Redis, redis-py or a pipe say, and leaves a server that does not lead.

    Args:
        link: the connections that are left.
        patience: seconds for which a call is repeated, unless it says otherwise.
    """

    def __init__(self, link: Link, patience: float) -> None:
        self._link = link
        self._patience = patience
        self._complained: dict[str, float] = {}

    async def repeated(self, call: Callable[[], Awaitable[Any]], patience: float | None) -> Any:
        """Calls until it goes through or the patience, in seconds, is over; None: the connection's."""
        patience = self._patience if patience is None else patience
        give_up_at = time.monotonic() + patience
        limit = max(patience, SHORTEST_TRY)
        backoff: Backoff | None = None  # most calls need none
        while True:
            try:
                # Each try has what is left, so that a Redis that stands still is not waited for longer than one that is gone.
                return await self.once(call, min(limit, ANSWER_TIMEOUT))
            except (errors.NoSuchGroupError, errors.UnexpectedReplyError):
                raise
            except StoreUnavailableError:
                backoff = backoff or Backoff(FIRST_DELAY, LONGEST_DELAY)
                if self._link.closed or time.monotonic() + (delay := backoff.next_delay()) > give_up_at:
                    raise
            await asyncio.sleep(delay)
            limit = give_up_at - time.monotonic()

    async def once(self, call: Callable[[], Awaitable[Any]], timeout: float) -> Any:
        """Calls once, for some seconds at most; what Redis, redis-py or a pipe say becomes an error of ours.

        Raises:
            StoreUnavailableError, StoreFullError: as run.
        """
        if self._link.closed:
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
