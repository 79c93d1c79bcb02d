"""What `make up` makes sure of before it starts anything: that Redis answers, and that its server can read what is there."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from deploy.local import redis_server
from deploy.local.settings import without_password
from tokenrelay.errors import TokenrelayError
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import StoreUnfitError

TRY_SECONDS = 2.0  # for one answer; one that hangs says as little as one that is away
NO_ANSWER = "Redis does not answer"
INTERVAL = 0.25  # seconds between tries


class RedisNotUsableError(Exception):
    """The Redis that is to be used does not answer, or cannot be used. Its text is for the user."""


def wait_until_it_answers(url: str, patience: float, report: Callable[[str], None]) -> None:
    """Returns once a Redis answers; reports at once if it does not.

    Args:
        url: where it is, perhaps with a password, which is shown to nobody.
        patience: seconds after which it is given up.
        report: takes a line for the user.

    Raises:
        RedisNotUsableError: it did not answer in time, or refuses us, or is too old.
    """
    asyncio.run(_wait(url, patience, report))


async def _wait(url: str, patience: float, report: Callable[[str], None]) -> None:
    shown, problem = f"REDIS_URL: {without_password(url)}", ""
    connection = RedisConnection(url, patience=0)
    try:
        async with asyncio.timeout(patience):
            while (found := await _problem(connection)) is not None:
                if found != problem:
                    report(f"{shown}: {found}; trying again for {patience:g} s")
                problem = found
                await asyncio.sleep(INTERVAL)
            await connection.wait_until_ready()
    except TimeoutError:
        raise RedisNotUsableError(
            f"{shown}: given up after {patience:g} s ({problem or NO_ANSWER}); start it, or wait longer with REDIS_SECONDS="
        ) from None
    except StoreUnfitError as error:
        raise RedisNotUsableError(f"{shown}: {error}") from error
    finally:
        await connection.close()


async def _problem(connection: RedisConnection) -> str | None:
    """Asks once; returns why there is no answer, None if there is one."""
    try:
        async with asyncio.timeout(TRY_SECONDS):
            await connection.read_clock()
    except TimeoutError:
        return NO_ANSWER
    except TokenrelayError as error:
        return error.message
    return None


def check_data(server: str, folder: Path) -> None:
    """Raises RedisNotUsableError if a server would not understand what a newer one has written in its data folder.

    Args:
        server: the server's path.
        folder: where it is to keep its data.
    """
    writer, version = redis_server.writer(folder), redis_server.version(server)
    if writer is not None and not version.can_read(writer):
        raise RedisNotUsableError(
            f"{folder} was written by {writer}, and {version} ({server}) cannot read it; "
            f"run a {writer.product} that is at least as new, or choose another folder with STATE="
        )
