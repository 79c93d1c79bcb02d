"""What Redis' errors mean here. Its exceptions stop at this package.

redis-py takes the code off some error replies and keeps it on others, and a server may wrap a reply that a script got. So
what counts is the code: the exception's status_code, the text's first word, or the word inside a script's wrapped text.
Texts were taken from Redis 6.2 and 7.0 and Valkey 9.1.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from redis.exceptions import AuthenticationError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenrelay.errors import InternalError, StoreFullError, StoreUnavailableError, TokenrelayError
from tokenrelay.start_up import StartUpError

RETRY_AFTER = 1.0  # seconds that a client is told to wait
# Redis 6.2: "ERR Error running script (call to f_<sha>): @user_script:1: @user_script: 1: -READONLY You can't write …"
WRAPPED = re.compile(r"Error running script .*@user_script: ?\d+: -?([A-Z]{2,}) ")
CODE = re.compile(r"[A-Z]{2,}(?= |$)")


class NoSuchGroupError(StoreUnavailableError):
    """The stream or its consumer group does not exist; it is made again before the next read."""


class UnexpectedReplyError(StoreUnavailableError):
    """Redis answered with an error that a repetition would not mend: a fault of ours, or foreign data at a key of ours.

    Whoever only waits for Redis takes it for one more kind of absence, so that it ends no process. A client is told INTERNAL.
    """

    code = InternalError.code
    reason = InternalError.reason


class StoreUnfitError(StartUpError):
    """Redis cannot be used as it is, and waiting would not help. Names the setting; its text is for the operator."""

    status = 2


class Meaning(Enum):
    """What an error reply asks of who gets it."""

    NOT_NOW = auto()  # repeat on the same connection
    NOT_HERE = auto()  # repeat on a new one: this server does not lead, or no longer
    REFUSED = auto()  # repeat, and say so: an operator must act
    FULL = auto()
    NO_GROUP = auto()
    UNEXPECTED = auto()  # do not repeat


@dataclass(frozen=True)
class Known:
    """What is known about an error code; the text is what clients and the log are told."""

    meaning: Meaning
    text: str


NOT_A_PRIMARY = "Redis is a replica or changes roles"
REFUSES = "Redis refuses this server's user or one of its commands"
CLUSTER_MOVES = "the Redis cluster is changing"
CODES = {
    "LOADING": Known(Meaning.NOT_NOW, "Redis is loading its data"),
    "MISCONF": Known(Meaning.NOT_NOW, "Redis cannot write to its disk"),
    "NOREPLICAS": Known(Meaning.NOT_NOW, "Redis has too few replicas to take writes"),
    "BUSY": Known(Meaning.NOT_NOW, "Redis is busy with a script"),
    "TRYAGAIN": Known(Meaning.NOT_NOW, CLUSTER_MOVES),
    "CLUSTERDOWN": Known(Meaning.NOT_NOW, CLUSTER_MOVES),
    # Never followed: while a slot is moved, the keys of one script lie on two servers.
    "ASK": Known(Meaning.NOT_NOW, CLUSTER_MOVES),
    "UNBLOCKED": Known(Meaning.NOT_NOW, "Redis ended a blocking read"),
    "READONLY": Known(Meaning.NOT_HERE, NOT_A_PRIMARY),
    "MASTERDOWN": Known(Meaning.NOT_HERE, NOT_A_PRIMARY),
    "NOMASTERLINK": Known(Meaning.NOT_HERE, NOT_A_PRIMARY),
    "REDIRECT": Known(Meaning.NOT_HERE, NOT_A_PRIMARY),
    "MOVED": Known(Meaning.NOT_HERE, CLUSTER_MOVES),
    "NOAUTH": Known(Meaning.REFUSED, REFUSES),
    "WRONGPASS": Known(Meaning.REFUSED, REFUSES),
    "NOPERM": Known(Meaning.REFUSED, REFUSES),
    "DENIED": Known(Meaning.REFUSED, REFUSES),
    "OOM": Known(Meaning.FULL, "Redis is out of memory"),
    "NOGROUP": Known(Meaning.NO_GROUP, "a queue is missing in Redis; it is made again"),
}
# Replies that say what they mean in their text alone, which is searched.
TEXTS = {
    "instance state changed": CODES["READONLY"],  # what a blocking read gets on a server that is demoted
    "the stream key no longer exists": CODES["NOGROUP"],
    "no such key": CODES["NOGROUP"],  # XINFO, and XGROUP of a stream that is not there
    "requires the key to exist": CODES["NOGROUP"],
    "The user executing the script can't": CODES["NOPERM"],
    "ACL failure in script": CODES["NOPERM"],
    "max number of clients reached": Known(Meaning.NOT_NOW, "Redis has too many connections"),
}
UNKNOWN = Known(Meaning.UNEXPECTED, "internal error: Redis gave an answer that was not expected; the server's log has it")
AWAY = Known(Meaning.NOT_NOW, "Redis cannot be reached")


STOPPING = "this process is stopping"


def code_of(error: ResponseError) -> str:
    """Returns an error reply's code, also of one that a script got; ERR if it has none of its own."""
    text = str(error)
    code = error.status_code
    if code is None:
        first = CODE.match(text)
        code = first[0] if first else "ERR"
    if code == "ERR" and (wrapped := WRAPPED.search(text)):
        code = wrapped[1]
    return code


def known_of(error: RedisError) -> Known:
    """Tells what an error of redis-py means."""
    if isinstance(error, AuthenticationError):
        return CODES["WRONGPASS"]
    if isinstance(error, OutOfMemoryError):
        return CODES["OOM"]
    if isinstance(error, ResponseError):
        text = str(error)
        for part, known in TEXTS.items():
            if part in text:
                return known
        return CODES.get(code_of(error), UNKNOWN)
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return CODES.get(error.status_code or "", AWAY)
    return AWAY  # what is no reply at all, such as bytes that are not Redis' protocol


def translated(error: RedisError) -> TokenrelayError:
    """Returns the error of ours that an error of redis-py stands for, to be raised from it."""
    known = known_of(error)
    match known.meaning:
        case Meaning.FULL:
            return StoreFullError(known.text, retry_after=RETRY_AFTER)
        case Meaning.NO_GROUP:
            return NoSuchGroupError(known.text, retry_after=RETRY_AFTER)
        case Meaning.UNEXPECTED:
            return UnexpectedReplyError(known.text)
    return StoreUnavailableError(known.text, retry_after=RETRY_AFTER)


def away(text: str = AWAY.text) -> StoreUnavailableError:
    """Returns the error for a Redis that gave no reply."""
    return StoreUnavailableError(text, retry_after=RETRY_AFTER)
