"""A channel's messages over a connection that is opened anew whenever it breaks or its server is demoted."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import structlog
from redis.exceptions import RedisError

from tokenrelay.backoff import Backoff
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis import errors
from tokenrelay.store.redis.pipe import RedisPipe
from tokenrelay.store.redis.server_check import PROBE

log = structlog.get_logger(__name__)

PROBE_INTERVAL, SILENCE = 2.0, 7.0  # seconds between probes, and until a silent connection counts as broken
OPEN_TIMEOUT = 5.0  # seconds to open a connection
FIRST_DELAY, LONGEST_DELAY = 0.02, 0.5  # seconds between tries


class Attempt(Protocol):
    """Calls once, for some seconds at most; raises errors of ours."""

    async def __call__(self, call: Callable[[], Awaitable[Any]], timeout: float, /) -> Any: ...


class OpenPipe(Protocol):
    """Opens a connection that hands over what is pushed."""

    async def __call__(self, on_push: Callable[[list[Any] | None], None], /) -> RedisPipe: ...


async def messages(attempt: Attempt, open_pipe: OpenPipe, channel: str) -> AsyncIterator[list[bytes] | None]:
    """Yields a channel's messages as they come, and None whenever some may be lost: at the start and after a reconnect."""
    backoff, told = Backoff(FIRST_DELAY, LONGEST_DELAY), ""
    while True:
        try:
            async for some in _until_broken(attempt, open_pipe, channel):
                backoff.reset()
                told = ""
                yield some
        except StoreUnavailableError as error:
            if error.message not in {told, errors.STOPPING}:
                log.warning("the subscription is broken", channel=channel, reason=error.message)
                told = error.message
        await asyncio.sleep(backoff.next_delay())


async def _until_broken(attempt: Attempt, open_pipe: OpenPipe, channel: str) -> AsyncIterator[list[bytes] | None]:
    """Yields one connection's messages until it ends, first None once it is subscribed.

    Raises:
        StoreUnavailableError: there is no connection, it does not answer, or its server does not lead any more.
    """
    inbox = Inbox()
    pipe: RedisPipe = await attempt(lambda: open_pipe(inbox.put), OPEN_TIMEOUT)
    probing = Probing(pipe)
    try:
        pipe.send("SUBSCRIBE", channel)
        while not pipe.closed:
            some = await inbox.take(PROBE_INTERVAL)
            if inbox.subscribed:
                inbox.subscribed = False
                probing.begin()
                yield None
            if some:
                yield some
            # A server that is demoted keeps its subscribers, and tells them nothing: only a write shows it.
            if probing.is_due:  # not after each of many messages
                await attempt(probing.look, OPEN_TIMEOUT)
        if isinstance(pipe.refusal, RedisError):
            await attempt(lambda: _raised(pipe.refusal), OPEN_TIMEOUT)
        raise errors.away()
    finally:
        pipe.close()


async def _raised(error: Exception | None) -> None:
    if error is not None:
        raise error


class Probing:
    """Asks a server from time to time whether it still leads."""

    def __init__(self, pipe: RedisPipe) -> None:
        self._pipe = pipe
        self._begun = False
        self._sent_at = time.monotonic()
        self._reply: asyncio.Future[Any] | None = None

    def begin(self) -> None:
        """Lets probes be sent. Before the subscription is confirmed, its refusal would be taken for a probe's reply."""
        self._begun = True

    @property
    def is_due(self) -> bool:
        """Whether a look would do anything."""
        now = time.monotonic()
        answered = self._reply is not None and self._reply.done()
        return answered or now - min(self._sent_at, self._pipe.heard) >= PROBE_INTERVAL

    async def look(self) -> None:
        """Judges the last probe, and sends the next when it is time.

        Raises:
            PipeClosedError: the connection has ended.
            RedisError: the server does not lead any more.
            StoreUnavailableError: nothing came for too long.
        """
        now = time.monotonic()
        if self._reply is not None and self._reply.done():
            reply, self._reply = self._reply, None
            await _of_a_follower(reply)
        elif now - self._pipe.heard > SILENCE:
            raise errors.away("Redis does not answer")
        elif self._begun and self._reply is None and now - self._sent_at >= PROBE_INTERVAL:
            self._reply = self._pipe.call(*PROBE)
            # Looked at here, since nobody may be left to do so when it comes; asyncio would log that.
            self._reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
            self._sent_at = now


async def _of_a_follower(reply: "asyncio.Future[Any]") -> None:
    """Raises what only a follower replies; a leader that takes no write for now is fine."""
    try:
        await reply
    except RedisError as error:
        if errors.known_of(error).meaning is errors.Meaning.NOT_HERE:
            raise


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
