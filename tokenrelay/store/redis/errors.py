"""What Redis' errors mean here: redis-py's exceptions stop at this package."""

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenrelay.errors import StoreUnavailableError

# Error replies that mean "not now": Redis loads its file, cannot write its disk, has no master, or changes roles.
TRANSIENT_REPLIES = ("LOADING", "MISCONF", "MASTERDOWN", "READONLY", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS", "BUSY ")


class NoSuchGroupError(StoreUnavailableError):
    """The stream or its consumer group does not exist; it is made again before the next read."""


class StoreUnfitError(Exception):
    """Redis cannot be used as it is configured, and waiting would not help. Its text is for the operator."""


def is_transient(error: RedisError) -> bool:
    """Tells whether the same call may go through later."""
    if isinstance(error, AuthenticationError):
        return False
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(TRANSIENT_REPLIES)


def of_closed_transport(error: RuntimeError) -> StoreUnavailableError:
    """Returns what it means that uvloop was to write on a connection that had just been reset; asyncio's loop only warns.

    Raises:
        RuntimeError: the error itself, if it is another one.
    """
    if "closed" not in str(error):
        raise error
    return StoreUnavailableError("Redis cannot be reached", retry_after=1.0)
