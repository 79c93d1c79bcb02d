"""What every command needs: the client, the terminal, and one way in which errors end."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import typer
from pydantic import SecretStr
from rich.console import Console

from tokenrelay.client.client import Client
from tokenrelay.client.command_line.settings import CommandLineSettings
from tokenrelay.client.resumption import RetryPolicy
from tokenrelay.client.tls import Tls
from tokenrelay.errors import TokenrelayError

# Rich reads ":smile:" and "[red]" in what it prints. An answer, an id or an error text must arrive as it is.
out = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
err = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)

EXPORT_SECONDS = 2.0  # how long a command waits for a collector to take its spans


@dataclass(frozen=True)
class Session:
    """What the options before the command say.

    Attributes:
        configuration: the settings from the environment.
        target: the gateways to call.
        tls: how; None: in plain text.
        api_key: the key to show; None: there is none.
    """

    configuration: CommandLineSettings
    target: str
    tls: Tls | None
    api_key: SecretStr | None = None


def session_of(context: typer.Context) -> Session:
    """Returns what the options before the command said."""
    assert isinstance(context.obj, Session)
    return context.obj


@contextmanager
def opened_client(context: typer.Context, timeout: float | None = None) -> Iterator[Client]:
    """Opens the client, and turns errors into a line on standard error and exit status 1.

    Args:
        context: the command's.
        timeout: seconds for each of its calls; None for no limit.
    """
    told: set[str] = set()

    def tell(error: TokenrelayError, _: float) -> None:
        if error.message not in told:
            told.add(error.message)
            err.print(f"trying again: {error.message}", style="yellow")

    session = session_of(context)
    try:
        with Client(
            session.target,
            timeout=timeout,
            retry=RetryPolicy(on_wait=tell),
            tls=session.tls,
            api_key=None if session.api_key is None else session.api_key.get_secret_value(),
        ) as client:
            yield client
    except TokenrelayError as error:
        about = f"generation {error.generation_id}" if error.generation_id else None
        fail(f"{type(error).__name__}: {error.message}", about)


def fail(text: str, about: str | None = None) -> NoReturn:
    """Ends the command with a line on standard error, another that says what it is about, and exit status 1."""
    err.print(text, style="red")
    if about is not None:
        err.print(about)
    raise typer.Exit(1)


def within(seconds: float, work: Callable[[], object]) -> None:
    """Does something that may hang, such as sending spans to a collector that is dead, for so long at most.

    The SDK's own limits are of no use here: its flush heeds none, and its shutdown waits for thirty seconds.
    """
    thread = threading.Thread(target=work, name="bounded", daemon=True)  # a daemon thread holds up no exit
    thread.start()
    thread.join(seconds)


def read_prompt(prompt: str) -> str:
    """Returns the prompt; what standard input holds if it is a dash."""
    return sys.stdin.read() if prompt == "-" else prompt


def read_lines() -> Iterator[str]:
    """Yields the lines of standard input that are not blank; asks for each on a terminal."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line
