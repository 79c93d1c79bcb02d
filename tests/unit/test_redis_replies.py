"""What each error reply of Redis means, as redis-py hands it over."""

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenrelay.errors import StoreFullError, StoreUnavailableError
from tokenrelay.store.redis import errors
from tokenrelay.store.redis.errors import Meaning

READONLY = "READONLY You can't write against a read only replica."
NOREPLICAS = "NOREPLICAS Not enough good replicas to write."
MISCONF = "MISCONF Errors writing to the AOF file: No space left on device"
MASTERDOWN = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
OOM = "OOM command not allowed when used memory > 'maxmemory'."
NOGROUP = "NOGROUP No such consumer group 'workers' for key name 'tokenrelay:{0}:jobs:m'"
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
BUSY = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."

IN_SCRIPTS = {
    READONLY: Meaning.NOT_HERE,
    MASTERDOWN: Meaning.NOT_HERE,
    NOREPLICAS: Meaning.NOT_NOW,
    MISCONF: Meaning.NOT_NOW,
    OOM: Meaning.FULL,
    NOGROUP: Meaning.NO_GROUP,
    WRONGTYPE: Meaning.UNEXPECTED,
}
BY_THEMSELVES = {
    "LOADING Redis is loading the dataset in memory": Meaning.NOT_NOW,
    BUSY: Meaning.NOT_NOW,
    "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": Meaning.NOT_NOW,
    "TRYAGAIN Multiple keys request during rehashing of slot": Meaning.NOT_NOW,
    "CLUSTERDOWN The cluster is down": Meaning.NOT_NOW,
    "CLUSTERDOWN Hash slot not served": Meaning.NOT_NOW,
    "ASK 5 127.0.0.1:7001": Meaning.NOT_NOW,
    "MOVED 5 127.0.0.1:7001": Meaning.NOT_HERE,
    "NOMASTERLINK Can't SYNC while not connected with my master": Meaning.NOT_HERE,
    "REDIRECT 127.0.0.1:7001": Meaning.NOT_HERE,
    "ERR max number of clients reached": Meaning.NOT_NOW,
    "UNBLOCKED client unblocked via CLIENT UNBLOCK": Meaning.NOT_NOW,
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": Meaning.NOT_HERE,
    "UNBLOCKED the stream key no longer exists": Meaning.NO_GROUP,
    "NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option": Meaning.NO_GROUP,
    "ERR no such key": Meaning.NO_GROUP,
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use": Meaning.NO_GROUP,
    "NOAUTH Authentication required.": Meaning.REFUSED,
    "WRONGPASS invalid username-password pair or user is disabled.": Meaning.REFUSED,
    "NOPERM this user has no permissions to run the 'info' command": Meaning.REFUSED,
    "NOPERM User u has no permissions to run the 'info' command": Meaning.REFUSED,
    "DENIED Redis is running in protected mode because": Meaning.REFUSED,
    "ERR The user executing the script can't run this command or subcommand script: 68, on @user_script:1.": Meaning.REFUSED,
    "ERR ACL failure in script: No permissions to access a key script: on @user_script:1.": Meaning.REFUSED,
    "ERR unknown command 'NOTHING', with args beginning with: ": Meaning.UNEXPECTED,
    "ERR user_script:1: attempt to perform arithmetic on a nil value script: d1, on @user_script:1.": Meaning.UNEXPECTED,
    "BUSYGROUP Consumer Group name already exists": Meaning.UNEXPECTED,
    "CROSSSLOT Keys in request don't hash to the same slot": Meaning.UNEXPECTED,
    "a text without a code": Meaning.UNEXPECTED,
    "": Meaning.UNEXPECTED,
}


def parse(reply: str) -> ResponseError:
    error: ResponseError = BaseParser.parse_error(reply)  # type: ignore[no-untyped-call]
    return error


def of_6_2(reply: str) -> str:
    return f"ERR Error running script (call to f_926dce): @user_script:1: @user_script: 1: -{reply}"


def of_a_command_in_6_2(reply: str) -> str:
    return f"ERR Error running script (call to f_926dce): @user_script:12: {reply}"


def of_7_0(reply: str) -> str:
    return f"{reply} script: 926dce5991758f650d1d593d530f1ea017a193b8, on @user_script:1."


def of_valkey(reply: str) -> str:
    return f"{reply} script: on @user_script:1."


@pytest.mark.parametrize("reply", IN_SCRIPTS)
@pytest.mark.parametrize("said", [str, of_6_2, of_a_command_in_6_2, of_7_0, of_valkey])
def test_a_reply_means_the_same_by_itself_and_in_a_script(said: type[str], reply: str) -> None:
    assert errors.known_of(parse(said(reply))).meaning is IN_SCRIPTS[reply]


@pytest.mark.parametrize("reply", BY_THEMSELVES)
def test_every_reply_has_a_meaning(reply: str) -> None:
    assert errors.known_of(parse(reply)).meaning is BY_THEMSELVES[reply]


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), RedisTimeoutError("late"), InvalidResponse("HTTP/1.1")])
def test_what_is_no_reply_means_that_redis_is_away(error: Exception) -> None:
    assert errors.known_of(error).meaning is Meaning.NOT_NOW  # type: ignore[arg-type]


@pytest.mark.parametrize("reply", [*IN_SCRIPTS, *BY_THEMSELVES])
def test_all_become_errors_that_whoever_waits_for_redis_expects(reply: str) -> None:
    error = errors.translated(parse(reply))
    assert isinstance(error, StoreUnavailableError | StoreFullError)
    assert reply == "" or reply not in error.message, "a client is told no text of Redis'"
