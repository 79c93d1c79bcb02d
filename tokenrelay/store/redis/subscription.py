"""A channel's messages over a connection that is opened anew whenever it breaks."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import structlog
from redis.exceptions import RedisError

from tokenrelay.backoff import Backoff
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis.errors import is_transient
from tokenrelay.store.redis.pipe import PipeClosedError, RedisPipe

log = structlog.get_logger(__name__)

PING_INTERVAL, SILENCE = 2.0, 7.0  # seconds without a message until a ping, and until a subscription counts as broken
FIRST_BACKOFF, LONGEST_BACKOFF = 0.02, 0.5  # seconds between tries

OpenPipe: TypeAlias = Callable[[Callable[[list[Any] | None], None]], Awaitable[RedisPipe]]


async def messages(open_pipe: OpenPipe, channel: str) -> AsyncIterator[list[bytes] | None]:
    """Yields a channel's messages as they come, and None whenever some may be lost: at the start and after a reconnect."""
    backoff = Backoff(FIRST_BACKOFF, LONGEST_BACKOFF)
    while True:
        try:
            async for some in _until_broken(open_pipe, channel):
                backoff.reset()
                yield some
        except StoreUnavailableError as error:
            log.debug("subscription broken", reason=error.message)
        await asyncio.sleep(backoff.next_delay())


async def _until_broken(open_pipe: OpenPipe, channel: str) -> AsyncIterator[list[bytes] | None]:
    """Yields one connection's messages until it ends, first None once it is subscribed.

    Raises:
        StoreUnavailableError: there is no connection, or not even a ping was answered.
        RedisError: Redis refuses the subscription.
    """
    inbox = Inbox()
    pipe = await open_pipe(inbox.put)
    try:
        pipe.send("SUBSCRIBE", channel)
        while True:
            some = await inbox.take(PING_INTERVAL)
            if pipe.closed:
                break
            if inbox.subscribed:
                inbox.subscribed = False
                yield None
            if some:
                yield some
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
