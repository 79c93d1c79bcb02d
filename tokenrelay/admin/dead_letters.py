"""The command for dead letters: `tokenrelay-dead-letters --help`, or `python -m tokenrelay.admin.dead_letters`."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from tokenrelay.admin import console
from tokenrelay.admin.console import as_text, err, instant, out, print_json
from tokenrelay.store.assembly import Store
from tokenrelay.store.dead_letters import DeadLetter, DeadLetters
from tokenrelay.v1 import generation_pb2

app = console.application(
    "Lists, shows, requeues and drops dead letters: generations that are not retried because they crashed their engine."
)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="the generation's id", callback=as_text)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

Work = Callable[[DeadLetters], Awaitable[None]]


@app.command("list")
def list_letters(
    model: Annotated[str | None, typer.Option(help="only those of this model", callback=as_text)] = None,
    as_json: AsJson = False,
) -> None:
    """Lists dead letters, the oldest first."""

    async def work(letters: DeadLetters) -> None:
        found = await letters.all(model)
        if as_json:
            print_json([_as_dict(letter) for letter in found])
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
            print_json(_as_dict(letter))
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
    async def with_letters(store: Store) -> None:
        await work(DeadLetters(store))

    console.run("dead-letters", with_letters)


def _attempts(letter: DeadLetter) -> int:
    return len(letter.content.timeline.lost_attempts) + 1


def _print_table(letters: Sequence[DeadLetter]) -> None:
    rows = [("id", "model", "set aside", "attempts", "tokens", "worker")]
    for letter in letters:
        content = letter.content
        counts = (str(_attempts(letter)), str(content.sequence))
        rows.append((letter.generation_id, letter.model, instant(letter.died_us), *counts, content.worker_id))
    console.print_table(rows)


def _print_letter(letter: DeadLetter) -> None:
    content = letter.content
    for name, value in (
        ("id", letter.generation_id),
        ("model", letter.model),
        ("submitted", instant(content.timeline.submitted_us)),
        ("set aside", instant(letter.died_us)),
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
    return {**MessageToDict(letter.content), "spec": _spec(letter), "setAsideAt": instant(letter.died_us)}


def main() -> Any:
    """Runs the command."""
    return app(prog_name="tokenrelay-dead-letters")


if __name__ == "__main__":
    main()
