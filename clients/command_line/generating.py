"""Commands that begin a generation or print its text: generate, stream, submit, attach, chat."""

import time
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson

from tokenrelay import conventions
from tokenrelay.client.client import Stream
from tokenrelay.client.command_line import display
from tokenrelay.client.command_line.lookups import show_trace
from tokenrelay.client.command_line.options import (
    AsJson,
    IdArgument,
    MaxTokens,
    Model,
    PromptArgument,
    Seed,
    ShowTimings,
    Stop,
    Temperature,
    Timeout,
)
from tokenrelay.client.command_line.session import opened_client, out, read_lines, read_prompt, session_of
from tokenrelay.client.requests import Options
from tokenrelay.v1 import generation_pb2

ALL_SPANS = frozenset(
    (
        conventions.SPAN_QUEUE_WAIT,
        conventions.SPAN_DISPATCH,
        conventions.SPAN_ENGINE_QUEUE,
        conventions.SPAN_PREFILL,
        conventions.SPAN_DECODE,
        conventions.SPAN_APPEND,
        conventions.SPAN_RELAY,
    )
)


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
    with opened_client(context, timeout) as client:
        started = time.perf_counter()
        whole = client.generate(
            read_prompt(prompt), model=model, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
        )
        elapsed_ms = (time.perf_counter() - started) * 1000
        if as_json:
            print(MessageToJson(whole))
            return
        for choice in whole.choices:
            print(choice.text)
        if show_timings:
            display.show_hops(out, whole.timings, elapsed_ms)


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
    with_trace: Annotated[bool, typer.Option("--trace", help="print the trace afterwards, as a waterfall")] = False,
) -> None:
    """Generates and prints the answer as it comes."""
    with opened_client(context, timeout) as client:
        client.models()  # connects, so that what is measured is the generation
        started = time.perf_counter()
        with client.stream(
            read_prompt(prompt), model=model, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
        ) as deltas:
            print_deltas(deltas)
            elapsed_ms = (time.perf_counter() - started) * 1000
        end = deltas.finished
        assert end is not None
        if show_timings:
            display.show_hops(out, end.timings, elapsed_ms)
            out.print(f"{_describe(end)}, generation {deltas.generation_id}")
    if with_trace:
        show_trace(session_of(context), end.trace_id, ALL_SPANS)


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
    options = Options(idempotency_key=idempotency_key, queue_timeout=queue_timeout, time_limit=time_limit)
    with opened_client(context) as client:
        print(client.submit(read_prompt(prompt), model=model, options=options, max_tokens=max_tokens, temperature=temperature))


def attach(
    context: typer.Context,
    generation_id: IdArgument,
    after: Annotated[int, typer.Option(help="the last sequence that you have")] = 0,
    show_timings: ShowTimings = False,
) -> None:
    """Joins a generation and prints what comes after a sequence."""
    with opened_client(context) as client, client.attach(generation_id, after_sequence=after) as deltas:
        print_deltas(deltas)
        if show_timings and deltas.finished is not None:
            display.show_hops(out, deltas.finished.timings)


def chat(
    context: typer.Context,
    model: Model = "",
    system: Annotated[str | None, typer.Option(help="what the model is told first")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> None:
    """Talks with the model, a line at a time, until end of file."""
    messages = [{"role": "system", "content": system}] if system else []
    with opened_client(context) as client:
        for line in read_lines():
            messages.append({"role": "user", "content": line})
            with client.stream(messages, model=model, max_tokens=max_tokens, temperature=temperature) as deltas:
                messages.append({"role": "assistant", "content": print_deltas(deltas)})


def print_deltas(deltas: Stream) -> str:
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
