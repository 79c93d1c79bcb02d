"""The command for dead letters: `tokenrelay-dead-letters --help`, or `python -m tokenrelay.admin.dead_letters`."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from tokenrelay import logs, settings
from tokenrelay.admin.settings import DeadLetterSettings
from tokenrelay.errors import StoreUnavailableError, TokenrelayError
from tokenrelay.start_up import StartUpError
from tokenrelay.store import assembly
from tokenrelay.store.dead_letters import DeadLetter, DeadLetters
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.v1 import generation_pb2

# Without Rich, whose markup would change what an error repeats of the command line, and without local variables in a
# traceback, since these hold prompts.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Lists, shows, requeues and drops dead letters: generations that are not retried because they crashed their engine.",
)
out = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)


def _as_text(value: str | None) -> str | None:
    """Refuses bytes of the command line that are no text, as the interpreter hands them on; Redis' client cannot send them."""
    if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
        raise typer.BadParameter("is not valid UTF-8")
    return value


IdArgument = Annotated[str, typer.Argument(metavar="ID", help="the generation's id", callback=_as_text)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

Work = Callable[[DeadLetters], Awaitable[None]]


@app.command("list")
def list_letters(
    model: Annotated[str | None, typer.Option(help="only those of this model", callback=_as_text)] = None,
    as_json: AsJson = False,
) -> None:
    """Lists dead letters, the oldest first."""

    async def work(letters: DeadLetters) -> None:
        found = await letters.all(model)
        if as_json:
            _print_json([_as_dict(letter) for letter in found])
        elif found:
            _print_table(found)
        else:
            err.print("There are no dead letters.")

    _run(work)


@app.command()
def show(generation_id: IdArgument, as_json: AsJson = False) -> None:
    """Shows a dead letter with its prompt."""

    async def work(letters: DeadLetters) -> None:
        letter = await letters.find(generation_id)
        if as_json:
            _print_json(_as_dict(letter))
        else:
            _print_letter(letter)

    _run(work)


@app.command()
def requeue(generation_id: IdArgument) -> None:
    """Queues the same spec as a new detached generation, prints its id, and drops the dead letter.

    The new generation runs alone until its first token. If the engine crashes before that, it becomes a dead letter at once.
    """

    async def work(letters: DeadLetters) -> None:
        accepted = await letters.requeue(await letters.find(generation_id))
        out.print(accepted.generation_id)

    _run(work)


@app.command()
def drop(generation_id: IdArgument) -> None:
    """Deletes a dead letter."""

    async def work(letters: DeadLetters) -> None:
        await letters.drop(await letters.find(generation_id))
        err.print(f"dropped {generation_id}")

    _run(work)


def _run(work: Work) -> None:
    """Runs a command's work; turns errors into a line on standard error and an exit status that is not 0."""
    configuration = settings.load(DeadLetterSettings)
    logs.set_up("dead-letters", configuration)
    try:
        asyncio.run(_with_letters(configuration, work))
    except TokenrelayError as error:
        err.print(str(error), style="red")
        raise typer.Exit(1) from error
    except StartUpError as error:
        err.print(str(error), style="red")
        raise typer.Exit(error.status) from error


async def _with_letters(configuration: DeadLetterSettings, work: Work) -> None:
    store = assembly.open_store(configuration)
    try:
        await _wait_for(store.connection, configuration)
        await work(DeadLetters(store))
    finally:
        await store.connection.close()


async def _wait_for(connection: RedisConnection, configuration: DeadLetterSettings) -> None:
    """Raises StoreUnavailableError if Redis is away, StartUpError if it is there and unfit."""
    try:
        await asyncio.wait_for(connection.wait_until_ready(), configuration.redis_patience_seconds)
    except TimeoutError as error:
        raise StoreUnavailableError("Redis cannot be reached; check TOKENRELAY_REDIS_URL") from error


def _attempts(letter: DeadLetter) -> int:
    return len(letter.content.timeline.lost_attempts) + 1


def _instant(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")


def _print_table(letters: Sequence[DeadLetter]) -> None:
    rows = [("id", "model", "set aside", "attempts", "tokens", "worker")]
    for letter in letters:
        content = letter.content
        counts = (str(_attempts(letter)), str(content.sequence))
        rows.append((letter.generation_id, letter.model, _instant(letter.died_us), *counts, content.worker_id))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        out.print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_letter(letter: DeadLetter) -> None:
    content = letter.content
    for name, value in (
        ("id", letter.generation_id),
        ("model", letter.model),
        ("submitted", _instant(content.timeline.submitted_us)),
        ("set aside", _instant(letter.died_us)),
        ("reason", content.reason.message),
        ("attempts", _attempts(letter)),
        ("tokens", content.sequence),
        ("worker", content.worker_id),
        ("engine", f"{content.engine} {content.engine_version}, fingerprint {content.fingerprint}"),
        ("trace", content.job.trace_id or "none"),
    ):
        out.print(f"{name:<10} {value}")
    out.print(json.dumps({"spec": _spec(letter)}, indent=2, ensure_ascii=False))


def _spec(letter: DeadLetter) -> dict[str, Any]:
    return MessageToDict(generation_pb2.GenerationSpec.FromString(letter.content.spec))


def _as_dict(letter: DeadLetter) -> dict[str, Any]:
    """Returns the whole letter in protobuf's JSON, the spec readable, with the instant at which it was set aside."""
    return {**MessageToDict(letter.content), "spec": _spec(letter), "setAsideAt": _instant(letter.died_us)}


def _print_json(value: object) -> None:
    out.print(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> Any:
    """Runs the command."""
    return app(prog_name="tokenrelay-dead-letters")


if __name__ == "__main__":
    main()
