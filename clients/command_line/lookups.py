"""Commands that ask for what is there: get, models, trace; and cancel, which prints where a generation stands too."""

import re
from collections.abc import Set
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from opentelemetry import trace as tracing

from tokenrelay.client.command_line import display, traces
from tokenrelay.client.command_line.options import AsJson, IdArgument
from tokenrelay.client.command_line.session import EXPORT_SECONDS, Session, fail, opened_client, out, session_of, within
from tokenrelay.v1 import generation_pb2

SPAN_PATIENCE = 5.0  # seconds that `trace` waits for spans to be exported
TRACE_ID = re.compile(r"[0-9a-fA-F]{32}")


def get(context: typer.Context, generation_id: IdArgument, as_json: AsJson = False) -> None:
    """Prints a generation as far as it got."""
    with opened_client(context) as client:
        found = client.get(generation_id)
        if as_json:
            print(MessageToJson(found))
        else:
            display.show_generation(out, found)


def cancel(context: typer.Context, generation_id: IdArgument) -> None:
    """Cancels a generation and prints where it stands."""
    with opened_client(context) as client:
        state = client.cancel(generation_id)
        print(generation_pb2.GenerationState.Name(state).removeprefix("GENERATION_STATE_"))


def models(context: typer.Context, as_json: AsJson = False) -> None:
    """Lists what is served."""
    with opened_client(context) as client:
        found = client.models()
        if as_json:
            print("[" + ",\n".join(MessageToJson(model) for model in found) + "]")
        else:
            display.show_models(out, found)


def trace(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="a generation's id, or a trace id of 32 hexadecimal digits")],
) -> None:
    """Prints a trace as a waterfall."""
    trace_id = name.lower()
    if "-" in name:
        with opened_client(context) as client:
            trace_id = client.get(name).trace_id
        if not trace_id:
            fail("this generation was not traced: no process had an OTLP endpoint")
    elif not TRACE_ID.fullmatch(name):
        fail("ID: is neither a generation's id nor a trace id of 32 hexadecimal digits")
    show_trace(session_of(context), trace_id)


def show_trace(session: Session, trace_id: str, wanted: Set[str] = frozenset()) -> None:
    """Prints a trace once the wanted spans are there, or what there is when the patience is over."""
    provider = tracing.get_tracer_provider()
    flush = getattr(provider, "force_flush", None)  # the API's own provider, when nothing is traced, has none
    if flush is not None:
        within(EXPORT_SECONDS, flush)
    try:
        spans = traces.fetch_complete(session.configuration.traces_url, trace_id, wanted, SPAN_PATIENCE)
    except (traces.TraceNotFoundError, traces.TraceStoreError) as error:
        fail(str(error))
    display.show_trace(out, spans)
