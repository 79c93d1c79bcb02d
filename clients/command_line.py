"""The command line: `tokenrelay --help`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToJson
from opentelemetry import trace
from rich.console import Console

from tokenrelay import conventions, settings, telemetry
from tokenrelay.client import display, traces
from tokenrelay.client.client import Client, Stream
from tokenrelay.client.requests import Options, Prompt
from tokenrelay.client.resumption import RetryPolicy
from tokenrelay.client.settings import CommandLineSettings
from tokenrelay.errors import TokenrelayError
from tokenrelay.v1 import generation_pb2

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Calls a Tokenrelay gateway.")
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

SPAN_PATIENCE = 5.0  # seconds that `trace` waits for spans to be exported

PromptArgument = Annotated[str, typer.Argument(help="the prompt; - reads it from standard input")]
IdArgument = Annotated[str, typer.Argument(help="the generation's id")]
Model = Annotated[str, typer.Option(help="empty: the only one served")]
MaxTokens = Annotated[int | None, typer.Option(help="the most tokens to generate")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy; unset: the model's default")]
Seed = Annotated[int | None, typer.Option(help="of this generation's random numbers")]
Stop = Annotated[list[str] | None, typer.Option(help="a string that ends the answer; may be repeated")]
Timeout = Annotated[float | None, typer.Option(help="seconds until the generation expires")]
AsJson = Annotated[bool, typer.Option("--json", help="print the whole message as JSON")]
ShowTimings = Annotated[bool, typer.Option("--timings", help="print the hop table afterwards")]


class State:
    """What the options before the command say."""

    configuration: CommandLineSettings
    target: str


@app.callback()
def start(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Option(help="gateways, host:port, separated by commas; else TOKENRELAY_TARGETS")
    ] = None,
) -> None:
    """Calls a Tokenrelay gateway."""
    state = State()
    state.configuration = settings.load(CommandLineSettings)
    state.target = target or state.configuration.targets
    context.obj = state
    tracing = telemetry.set_up("tokenrelay-client", "command-line", state.configuration)
    if tracing.provider is not None:
        trace.set_tracer_provider(tracing.provider)
        context.call_on_close(tracing.shut_down)


@contextmanager
def _client(context: typer.Context) -> Iterator[Client]:
    """Opens the client, and turns errors into a line on standard error and exit status 1."""
    told: set[str] = set()

    def tell(error: TokenrelayError, _: float) -> None:
        if error.message not in told:
            told.add(error.message)
            err.print(f"trying again: {error.message}", style="yellow", markup=False)

    with Client(context.obj.target, retry=RetryPolicy(on_wait=tell)) as client:
        try:
            yield client
        except TokenrelayError as error:
            err.print(f"{type(error).__name__}: {error.message}", style="red", markup=False)
            if error.generation_id:
                err.print(f"generation {error.generation_id}", markup=False)
            raise typer.Exit(1) from error


@app.command()
def generate(
    context: typer.Context,
    prompt: PromptArgument,
    model: Model = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    stop: Stop = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
    show_timings: ShowTimings = False,
) -> None:
    """Generates and prints the whole answer."""
    with _client(context) as client:
        started = time.perf_counter()
        whole = client.generate(
            _read(prompt), model=model, timeout=timeout, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
        )
        elapsed_ms = (time.perf_counter() - started) * 1000
        if as_json:
            print(MessageToJson(whole))
            return
        for choice in whole.choices:
            print(choice.text)
        if show_timings:
            display.show_hops(out, whole.timings, elapsed_ms)


@app.command()
def stream(
    context: typer.Context,
    prompt: PromptArgument,
    model: Model = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    stop: Stop = None,
    timeout: Timeout = None,
    show_timings: ShowTimings = False,
    show_trace: Annotated[bool, typer.Option("--trace", help="print the trace afterwards, as a waterfall")] = False,
) -> None:
    """Generates and prints the answer as it comes."""
    with _client(context) as client:
        client.models()  # connects, so that what is measured is the generation
        started = time.perf_counter()
        answer = client.stream(
            _read(prompt), model=model, timeout=timeout, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
        )
        with answer as deltas:
            _print(deltas)
            elapsed_ms = (time.perf_counter() - started) * 1000
        end = deltas.finished
        assert end is not None
        if show_timings:
            display.show_hops(out, end.timings, elapsed_ms)
            out.print(f"{_describe(end)}, generation {deltas.generation_id}", highlight=False)
    if show_trace:
        _show_trace(context.obj, end.trace_id, set(ALL_SPANS))


@app.command()
def submit(
    context: typer.Context,
    prompt: PromptArgument,
    model: Model = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    time_limit: Annotated[float | None, typer.Option(help="seconds until it expires")] = None,
    queue_timeout: Annotated[float | None, typer.Option(help="seconds it may wait for a worker")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="the same key with the same request joins")] = None,
) -> None:
    """Has a generation run by itself and prints its id."""
    options = Options(idempotency_key, queue_timeout, time_limit)
    with _client(context) as client:
        print(client.submit(_read(prompt), model=model, options=options, max_tokens=max_tokens, temperature=temperature))


@app.command()
def attach(
    context: typer.Context,
    generation_id: IdArgument,
    after: Annotated[int, typer.Option(help="the last sequence that you have")] = 0,
    show_timings: ShowTimings = False,
) -> None:
    """Joins a generation and prints what comes after a sequence."""
    with _client(context) as client, client.attach(generation_id, after_sequence=after) as deltas:
        _print(deltas)
        if show_timings and deltas.finished is not None:
            display.show_hops(out, deltas.finished.timings)


@app.command()
def get(context: typer.Context, generation_id: IdArgument, as_json: AsJson = False) -> None:
    """Prints a generation as far as it got."""
    with _client(context) as client:
        found = client.get(generation_id)
        if as_json:
            print(MessageToJson(found))
        else:
            display.show_generation(out, found)


@app.command()
def cancel(context: typer.Context, generation_id: IdArgument) -> None:
    """Cancels a generation and prints where it stands."""
    with _client(context) as client:
        state = client.cancel(generation_id)
        print(generation_pb2.GenerationState.Name(state).removeprefix("GENERATION_STATE_"))


@app.command()
def chat(
    context: typer.Context,
    model: Model = "",
    system: Annotated[str | None, typer.Option(help="what the model is told first")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> None:
    """Talks with the model, a line at a time, until end of file."""
    messages = [{"role": "system", "content": system}] if system else []
    with _client(context) as client:
        for line in _lines():
            messages.append({"role": "user", "content": line})
            with client.stream(messages, model=model, max_tokens=max_tokens, temperature=temperature) as deltas:
                messages.append({"role": "assistant", "content": _print(deltas)})


@app.command()
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """Lists what is served."""
    with _client(context) as client:
        found = client.models()
        if as_json:
            print("[" + ",\n".join(MessageToJson(model) for model in found) + "]")
        else:
            display.show_models(out, found)


@app.command("trace")
def trace_command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="a generation's id, or a trace id of 32 hexadecimal digits")],
) -> None:
    """Prints a trace as a waterfall."""
    trace_id = name
    if "-" in name:
        with _client(context) as client:
            trace_id = client.get(name).trace_id
        if not trace_id:
            err.print("this generation was not traced: no process had an OTLP endpoint", style="red")
            raise typer.Exit(1)
    _show_trace(context.obj, trace_id, set())


ALL_SPANS = (
    conventions.SPAN_QUEUE_WAIT,
    conventions.SPAN_DISPATCH,
    conventions.SPAN_ENGINE_QUEUE,
    conventions.SPAN_PREFILL,
    conventions.SPAN_DECODE,
    conventions.SPAN_APPEND,
    conventions.SPAN_RELAY,
)


def _show_trace(state: State, trace_id: str, wanted: set[str]) -> None:
    provider = trace.get_tracer_provider()
    flush = getattr(provider, "force_flush", None)
    if flush is not None:
        flush()
    try:
        spans = traces.fetch_complete(state.configuration.traces_url, trace_id, wanted, SPAN_PATIENCE)
    except traces.TraceNotFoundError as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    display.show_trace(out, spans)


def _read(prompt: str) -> Prompt:
    return sys.stdin.read() if prompt == "-" else prompt


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if line.strip():
            yield line


def _print(deltas: Stream) -> str:
    """Prints the first choice as it comes; returns its text."""
    texts = []
    for delta in deltas:
        if delta.index == 0:
            print(delta.text, end="", flush=True)
            texts.append(delta.text)
    print()
    return "".join(texts)


def _describe(end: generation_pb2.Finished) -> str:
    reasons = ", ".join(
        generation_pb2.FinishReason.Name(choice.finish_reason).removeprefix("FINISH_REASON_").lower() for choice in end.choices
    )
    usage = end.usage
    return f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens} cached), {usage.completion_tokens} generated, {reasons}"


def main() -> Any:
    """Runs the command line."""
    return app(prog_name=Path(sys.argv[0]).name or "tokenrelay")


if __name__ == "__main__":
    main()
