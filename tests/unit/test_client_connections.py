"""How the clients connect, and what they tell when nobody answers."""

import asyncio
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from tokenrelay import errors
from tokenrelay.client import AsyncClient, Client, RetryPolicy
from tokenrelay.client.command_line.app import app
from tokenrelay.client.connections import Targets
from tokenrelay.v1 import generation_service_pb2, generation_service_pb2_grpc

NOBODY = "127.0.0.1:1"
IMPATIENT = RetryPolicy(give_up_after=-1)


def test_the_synchronous_client_names_the_gateway_that_does_not_answer() -> None:
    with Client(NOBODY, retry=IMPATIENT) as client:
        with pytest.raises(errors.UnavailableError, match=rf"no gateway answers at {NOBODY} \(.+\)"):
            client.models()
        with pytest.raises(errors.UnavailableError, match=f"no gateway answers at {NOBODY}"), client.stream("x") as stream:
            stream.text()


async def test_the_asynchronous_client_names_the_gateway_that_does_not_answer() -> None:
    async with AsyncClient(NOBODY, retry=IMPATIENT) as client:
        with pytest.raises(errors.UnavailableError, match=rf"no gateway answers at {NOBODY} \(.+\)"):
            await client.models()
        with pytest.raises(errors.UnavailableError, match=f"no gateway answers at {NOBODY}"):
            async with client.stream("x") as stream:
                await stream.text()


def test_each_failure_names_the_gateway_that_was_tried() -> None:
    tried: list[str] = []
    retry = RetryPolicy(first_delay=0, give_up_after=1e9, on_wait=lambda error, _: _take(tried, error.message))
    with Client([NOBODY, "127.0.0.1:2"], retry=retry) as client, pytest.raises(StopIteration):
        client.models()
    assert [message.split(" (")[0] for message in tried] == [
        f"no gateway answers at {target}" for target in (NOBODY, "127.0.0.1:2", NOBODY)
    ]


class _Dropping(generation_service_pb2_grpc.GenerationServiceServicer):
    """Drops its first call, as a server does that stops while the call arrives."""

    def __init__(self) -> None:
        self.calls = 0

    async def SubmitGeneration(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        self.calls += 1
        if self.calls == 1:
            await context.abort(grpc.StatusCode.CANCELLED)
        return generation_service_pb2.SubmitGenerationResponse(generation_id="0-1")


async def test_a_call_that_a_stopping_server_drops_is_made_again() -> None:
    server, servicer = grpc.aio.server(), _Dropping()  # type: ignore[abstract]
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        assert await client.submit("x") == "0-1"
    assert servicer.calls == 2
    await server.stop(None)


def _take(tried: list[str], message: str) -> None:
    tried.append(message)
    if len(tried) == 3:
        raise StopIteration


class _Silent(generation_service_pb2_grpc.GenerationServiceServicer):
    """Answers no call."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    async def SubmitGeneration(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        self.called.set()
        await asyncio.Event().wait()


async def test_a_call_whose_client_is_closed_ends_with_an_error_and_a_cancelled_one_as_cancelled() -> None:
    server, servicer = grpc.aio.server(), _Silent()  # type: ignore[abstract]
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    for end, error in (("close", RuntimeError), ("cancel", asyncio.CancelledError)):
        servicer.called.clear()
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            calling = asyncio.create_task(client.submit("x"))
            await servicer.called.wait()
            if end == "close":
                await client.close()
            else:
                calling.cancel()
            await asyncio.wait({calling})
            with pytest.raises(error):
                calling.result()
    await server.stop(None)


@pytest.mark.parametrize("command", ["generate", "stream"])
def test_the_time_limit_of_a_command_counts_while_no_gateway_answers(command: str) -> None:
    result = CliRunner().invoke(app, ["--target", NOBODY, command, "x", "--timeout", "0.3"])
    assert result.exit_code == 1
    assert "GenerationExpiredError: the timeout has passed" in result.stderr


def test_both_clients_notice_a_gateway_whose_machine_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def connect(_: str, options: Any) -> Any:
        seen.append(dict(options))
        raise ConnectionError

    monkeypatch.setattr(grpc, "insecure_channel", connect)
    monkeypatch.setattr(grpc.aio, "insecure_channel", connect)
    with pytest.raises(ConnectionError):
        Client(NOBODY).models()
    with pytest.raises(ConnectionError):
        asyncio.run(AsyncClient(NOBODY).models())
    assert len(seen) == 2
    for options in seen:
        assert options["grpc.keepalive_time_ms"] == 10_000
        assert options["grpc.keepalive_timeout_ms"] == 5_000
        assert options["grpc.http2.max_pings_without_data"] == 0
        assert options["grpc.keepalive_permit_without_calls"] == 0


def test_calls_that_fail_together_move_on_together() -> None:
    targets: Targets[grpc.Channel] = Targets("a:1,b:1,c:1", grpc.insecure_channel)
    for _ in range(2):  # two calls were under way when a went down
        targets.move_on_from("a:1")
    assert targets.current == "b:1"
    targets.move_on_from("b:1")
    assert targets.current == "c:1"
