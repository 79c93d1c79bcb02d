"""A connection for a thread of its own, which works while the event loop does not."""

from collections.abc import Sequence
from typing import Any

import redis
import redis.retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis import passwords
from tokenrelay.store.redis.scripts import Script

CONNECT_TIMEOUT = 2.0  # seconds
CALL_TIMEOUT = 2.0  # seconds


class ThreadConnection:
    """Runs scripts from a thread of its own, whatever the event loop does. The arguments are those of Link."""

    def __init__(self, url: str, password_file: str | None = None) -> None:
        bare, credentials = passwords.options(url, password_file)
        self._redis = redis.Redis.from_url(
            bare,
            **credentials,
            retry=redis.retry.Retry(NoBackoff(), 0),
            socket_timeout=CALL_TIMEOUT,
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
            # Closed, so that the next call looks for the primary anew: this one may have been demoted.
            self._redis.connection_pool.disconnect()
            raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0) from error

    def close(self) -> None:
        self._redis.close()
