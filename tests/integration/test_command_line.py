"""The command line: whatever it is given ends in its output or in one line, never in a traceback; texts arrive as they are."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from tests.integration.conftest import Served
from tests.integration.test_clients import ROOT, expected
from tokenrelay.client.command_line.app import app
from tokenrelay.client.command_line.session import EXPORT_SECONDS
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as service
from tokenrelay.v1 import generation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

NOBODY = "127.0.0.1:1"
TRACE = "0123456789abcdef" * 2
HALF = "half \udcff text"  # what the interpreter makes of bytes that are no UTF-8
NO_TEXT = "is not valid Unicode text"


def clean_environment() -> dict[str, str]:
    """The environment without anything that the command line or its tracing reads."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TOKENRELAY_", "OTEL_"))}


async def run(*arguments: str | bytes, stdin: bytes = b"", variables: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Runs the command line as a process; returns its status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tokenrelay.client.command_line", *arguments),
        env={**clean_environment(), "PYTHONUTF8": "1", **(variables or {})},
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin)
    return process.returncode or 0, out.decode(), err.decode()


async def invoke(*arguments: str, variables: dict[str, str] | None = None) -> Result:
    """Runs a command in this process, which takes no second for imports."""
    hidden = {name: None for name in os.environ if name not in clean_environment()}
    environment = {**hidden, **(variables or {})}
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments, input="hello\n", env=environment))


async def assert_refused(says: str, *arguments: str, status: int = 1, variables: dict[str, str] | None = None) -> None:
    result = await invoke(*arguments, variables=variables)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    assert says in result.stderr
    assert len(result.stderr.splitlines()) <= 5, "the line, or typer's usage with it"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", HALF], f"spec.text: {NO_TEXT}"),
        (["stream", HALF], f"spec.text: {NO_TEXT}"),
        (["submit", HALF], f"spec.text: {NO_TEXT}"),
        (["generate", "x", "--stop", HALF], f"spec.sampling_params.stop: {NO_TEXT}"),
        (["generate", "x", "--model", HALF], f"spec.model: {NO_TEXT}"),
        (["submit", "x", "--idempotency-key", HALF], f"idempotency_key: {NO_TEXT}"),
        (["chat", "--system", HALF], f"spec.chat.messages[0].content: {NO_TEXT}"),
        (["get", HALF], f"generation_id: {NO_TEXT}"),
        (["attach", HALF], f"generation_id: {NO_TEXT}"),
        (["cancel", HALF], f"generation_id: {NO_TEXT}"),
        (["get", ""], "generation_id: is required"),
        (["attach", ""], "generation_id: is required"),
        (
            ["generate", "x", "--max-tokens", "99999999999"],
            "spec.sampling_params.max_tokens: is out of range; must be from -21474",
        ),
        (
            ["generate", "x", "--seed", "99999999999999999999"],
            "spec.sampling_params.seed: is out of range; must be from -92233",
        ),
        (["attach", "0-1", "--after", "1" + "0" * 20], "after_sequence: is 100000000000000000000; must be from 0 to"),
        (["attach", "0-1", "--after", "-1"], "after_sequence: is -1; must be from 0 to"),
        (["generate", "x", "--timeout", "nan"], "timeout: is nan seconds; must be at most"),
        (["generate", "x", "--timeout", "inf"], "timeout: is inf seconds; must be at most"),
        (["submit", "x", "--time-limit", "1e300"], "time_limit: is 1e+300 seconds; must be at most"),
        (["submit", "x", "--queue-timeout", "nan"], "queue_timeout: is nan seconds; must be at most"),
        (["trace", "nope"], "ID: is neither a generation's id nor a trace id"),
        (["trace", ""], "ID: is neither"),
        (["trace", "a b"], "ID: is neither"),
        (["trace", HALF], "ID: is neither"),
    ],
    ids=repr,
)
async def test_wrong_arguments(odd: str, arguments: list[str], says: str) -> None:
    await assert_refused(says, "--target", odd, *arguments)


async def test_wrong_bytes_of_a_real_process(odd: str) -> None:
    undecodable = os.fsencode(HALF)
    for arguments, stdin, field in (
        (["generate", undecodable], b"", "spec.text"),
        (["generate", "-"], undecodable, "spec.text"),
        (["chat"], undecodable + b"\n", "spec.chat.messages[0].content"),
    ):
        code, out, err = await run("--target", odd, *arguments, stdin=stdin)
        assert (code, out, err) == (
            1,
            "",
            f"InvalidRequestError: {field}: {NO_TEXT}: it has half of a surrogate pair, as undecodable bytes become\n",
        )


@pytest.mark.parametrize("target", ["http://127.0.0.1:1", "host", "host:x", "", HALF])
async def test_wrong_targets(target: str) -> None:
    await assert_refused("--target: ", "--target", target, "models", status=2)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TARGETS", "http://127.0.0.1:1"),
        ("TARGETS", "host"),
        *(
            ("TRACES_URL", value)
            for value in ("foo", "file:///etc/passwd", "http://", "http://host:x", "http://a b", "http://[")
        ),
    ],
)
async def test_wrong_settings(variable: str, value: str) -> None:
    await assert_refused(f"TOKENRELAY_{variable}: ", "trace", TRACE, status=2, variables={f"TOKENRELAY_{variable}": value})


class _Store(BaseHTTPRequestHandler):
    """Answers every request with what the server holds."""

    def do_GET(self) -> None:
        answers: list[tuple[int, bytes]] = self.server.answers  # type: ignore[attr-defined]
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def trace_store() -> Iterator[ThreadingHTTPServer]:
    """A trace store that gives its answers one after the other, and the last one again and again."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def trace_of(*spans: tuple[str, str, str]) -> bytes:
    """A trace's JSON with spans of an id, a parent's id and a name."""
    listed = [
        {"traceId": TRACE, "spanId": own, "parentSpanId": parent, "name": name, "startTimeUnixNano": 1, "endTimeUnixNano": 9}
        for own, parent, name in spans
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": listed}]}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", b"\xff\xfe", b"[]", b"5", b"null", b'{"result": []}', b'{"resourceSpans": [1]}', b"[" * 100_000),
        trace_of(("a", "", "b")).replace(b'"spanId"', b'"other"'),
        trace_of(("a", "", "b")).replace(b": 9", b': "soon"'),
    ],
    ids=lambda body: body[:16],
)
async def test_what_is_no_trace_store(trace_store: ThreadingHTTPServer, body: bytes) -> None:
    trace_store.answers = [(200, body)]  # type: ignore[attr-defined]
    await assert_refused(
        f"{url(trace_store)} is no trace store", "trace", TRACE, variables={"TOKENRELAY_TRACES_URL": url(trace_store)}
    )


async def test_what_does_not_speak_http() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await assert_refused(
            "is no trace store", "trace", TRACE, variables={"TOKENRELAY_TRACES_URL": f"http://127.0.0.1:{port}"}
        )


async def test_a_trace_is_waited_for(trace_store: ThreadingHTTPServer) -> None:
    none_yet = [(404, b"{}"), (200, b'{"resourceSpans": []}'), (503, b"")]
    trace_store.answers = [*none_yet, (200, trace_of(("a", "", ":smile: [red]")))]  # type: ignore[attr-defined]
    result = await invoke("trace", TRACE.upper(), variables={"TOKENRELAY_TRACES_URL": url(trace_store)})
    assert result.exit_code == 0, result.output
    assert ":smile: [red]" in result.stdout


async def test_a_trace_that_never_comes_is_a_line(trace_store: ThreadingHTTPServer) -> None:
    trace_store.answers = [(404, b"")]  # type: ignore[attr-defined]
    await assert_refused(f"no trace {TRACE} at", "trace", TRACE, variables={"TOKENRELAY_TRACES_URL": url(trace_store)})


async def test_odd_traces_are_shown(trace_store: ThreadingHTTPServer) -> None:
    circle = [("a", "b", "first"), ("b", "a", "second"), ("c", "c", "its own parent")]
    deep = [(f"{number}", f"{number - 1}", f"deep {number}") for number in range(1500)]
    trace_store.answers = [(200, trace_of(*circle, *deep))]  # type: ignore[attr-defined]
    result = await invoke("trace", TRACE, variables={"TOKENRELAY_TRACES_URL": url(trace_store)})
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("first", "second", "its own parent", "deep 0", "deep 1499"))


ODD = ":smile: [red]not red[/] [link=x] 127.0.0.1:x:\ta\x0cb\x07c http://a.b 'q' 12\\[i] \u00e4"


class _Odd(generation_service_pb2_grpc.GenerationServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Answers with texts that a terminal library would change."""

    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        return service.GenerateResponse(generation=g.Generation(generation_id="0-1", choices=[g.Choice(text=ODD)]))

    async def GetGeneration(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        if request.generation_id == "failed":
            await context.abort(grpc.StatusCode.NOT_FOUND, ODD)
        choices = [g.Choice(index=0, text=ODD), g.Choice(index=1, text=ODD)]
        return service.GetGenerationResponse(generation=g.Generation(generation_id="0-1", model=ODD, choices=choices))

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        model = model_service_pb2.Model(name=":smile:[red]x[/]", engine="vllm", engine_version="[i]1")
        return model_service_pb2.ListModelsResponse(models=[model])


@pytest.fixture
async def odd() -> AsyncIterator[str]:
    server, servicer = grpc.aio.server(), _Odd()  # type: ignore[abstract]
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_texts_arrive_as_they_are(odd: str) -> None:
    colourful = {"COLUMNS": "100", "FORCE_COLOR": "1"}
    result = await invoke("--target", odd, "get", "0-1", variables=colourful)
    assert result.exit_code == 0, result.output
    assert f"[0] {ODD}\n[1] {ODD}\n" in result.stdout
    result = await invoke("--target", odd, "models", variables=colourful)
    assert result.exit_code == 0, result.output
    assert ":smile:[red]x[/]" in result.stdout
    assert "[i]1" in result.stdout
    result = await invoke("--target", odd, "get", "failed", variables={"COLUMNS": "40"})
    assert result.exit_code == 1
    assert ":smile: [red]not red[/] [link=x] 127.0.0.1:x:" in result.stderr


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "silent"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_dead_collector_does_not_delay_the_end(odd: str, silent: bool, protocol: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()  # connections are taken by the kernel, and nobody reads them
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-m", "tokenrelay.client.command_line", "--target", odd, "generate", "hello"),
            env={**clean_environment(), **variables},
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert await process.stdout.readline()
        answered = time.monotonic()
        assert await process.wait() == 0
        # The SDK's own shutdown and flush take from eight to thirty seconds.
        assert time.monotonic() - answered < EXPORT_SECONDS + 4


async def test_a_terminal_of_another_encoding_gets_what_it_can_show(odd: str) -> None:
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    code, out, err = await run("--target", odd, "generate", "hello", variables=ascii_only)
    assert code == 0, err
    assert "\\xe4" in out


async def test_a_chat_passes_over_blank_lines(served: Served) -> None:
    arguments = ("chat", "--max-tokens", "5")
    code, out, err = await run("--target", served.gateway.target, *arguments, stdin=b"\n  \nhello\n\nmore\n")
    assert code == 0, err
    assert len(out.splitlines()) >= 2


async def test_a_prompt_may_come_from_standard_input(served: Served) -> None:
    code, out, err = await run("--target", served.gateway.target, "generate", "--max-tokens", "20", "-", stdin=b"hello")
    assert code == 0, err
    assert out.startswith(expected(ignore_eos=False)[1])
