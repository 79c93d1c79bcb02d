"""All connections to one Redis: how they are opened, and how they are all left at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import redis.asyncio
import structlog
from redis._parsers.base import BaseParser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from tokenrelay.store.redis import errors, passwords
from tokenrelay.store.redis.pipe import PipeClosedError, RedisPipe

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT = 2.0  # seconds until a new connection has been greeted
ANSWER_TIMEOUT = 10.0  # seconds; a slow fsync is waited for, a half-open connection is not
WRONG_URL = (
    "TOKENRELAY_REDIS_URL: this is no address of a Redis. It looks like redis://user:password@host:6379/0, with rediss:// for "
    "TLS or unix:///path for a socket; in a user name or password, characters such as @ : / # are percent-encoded"
)


class Link:
    """Opens connections and remembers them.

    Args:
        url: where Redis is.
        password_file: holds the password, and is read for each connection; None: the URL has it, if there is one.

    Attributes:
        closed: whether no connection can be opened any more.
        greeting: what the server said of itself when the newest connection was opened; empty before the first.

    Raises:
        StoreUnfitError: the URL is wrong. The text does not hold it, since it may hold a password.
    """

    def __init__(self, url: str, password_file: str | None = None) -> None:
        # redis-py's own timeouts are off: before Python 3.12 they swallow a cancel that comes while a command is sent
        # (asyncio.wait_for returns a result that is there instead of raising).
        options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "socket_timeout": None, "socket_connect_timeout": None}
        try:
            url, credentials = passwords.options(url, password_file)
            self._pool = redis.asyncio.ConnectionPool.from_url(url, protocol=3, **options, **credentials)
            protocol = self._pool.make_connection().protocol  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, RedisError):
            raise errors.StoreUnfitError(WRONG_URL) from None  # their texts may quote a part of the password
        if int(protocol) != 3:
            raise errors.StoreUnfitError("TOKENRELAY_REDIS_URL: protocol=3 is needed, and is the default") from None
        self.greeting: dict[bytes, Any] = {}
        self._pipes: set[RedisPipe] = set()
        self.closed = False

    async def open(self, on_push: Callable[[list[Any] | None], None] | None = None) -> RedisPipe:
        """Opens a connection to a primary, resolving its name anew.

        Raises:
            StoreUnavailableError: there is no answer, or it is a replica that answers.
            RedisError: what the server replies to the greeting.
        """
        self._refuse_if_closed()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                pipe = RedisPipe(await self._connected(), BaseParser.parse_error, ANSWER_TIMEOUT, on_push)
                await self._greet(pipe)
        except TimeoutError as error:
            raise errors.away("Redis does not answer") from error
        except PipeClosedError as error:
            raise errors.away() from error
        self._pipes = {one for one in self._pipes if not one.closed} | {pipe}
        if self.closed:
            self.leave()  # closed while this one was being opened: nobody else would close it
        self._refuse_if_closed()
        return pipe

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise errors.away(errors.STOPPING)

    async def _connected(self) -> Any:
        opened: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await opened.connect()
        except RuntimeError as error:
            # uvloop's word for a write on a connection that was reset while it was greeted; asyncio's loop only warns.
            await opened.disconnect(nowait=True)
            if "closed" not in str(error):
                raise
            raise errors.away() from error
        except RedisConnectionError as error:
            # redis-py hides in it what the server said to the greeting, and whether it is worth another try.
            await opened.disconnect(nowait=True)
            if isinstance(error.__cause__, RedisError):
                raise error.__cause__ from None
            raise
        except BaseException:
            # A greeting that is cut off by the timeout leaves the socket open, and nobody else knows of it.
            await opened.disconnect(nowait=True)
            raise
        return opened

    async def _greet(self, pipe: RedisPipe) -> None:
        """Asks who answers, and leaves a replica at once: it would refuse writes, and what it reads may be old."""
        try:
            self.greeting = await pipe.call("HELLO")
        except BaseException:
            pipe.close()
            raise
        if self.greeting.get(b"role") != b"master" and self.greeting.get(b"mode") != b"sentinel":
            pipe.close()
            raise errors.away(errors.NOT_A_PRIMARY)

    def leave(self) -> None:
        """Closes all connections, so that all who need one look for the primary anew.

        A name, a proxy or a Sentinel that points to another server does not move a connection that is open.
        """
        for pipe in self._pipes:
            pipe.close()
        self._pipes = set()

    def close(self) -> None:
        """Closes all connections; no other can be opened afterwards."""
        self.closed = True
        self.leave()
