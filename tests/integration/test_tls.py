"""The gateway over TLS: who is served, who is refused, and certificates that are replaced under open streams."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from deploy.local.authority import Issued
from tests.integration.conftest import spec
from tests.integration.test_settings_unreachable import run
from tests.support import stack as stacks
from tests.support.certificates import DAY, Files, Volume, authority
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Edge, Gateway, Stack
from tests.support.waiting import eventually
from tokenrelay.serving.certificates import LOOK_SECONDS
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as pb
from tokenrelay.v1 import generation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

AUTHORITY, STRANGER = authority(), authority("stranger")
REPLACEMENTS, STREAMS = 20, 20
LONG = 100_000  # tokens; a stream of them does not end by itself


@pytest.fixture
async def stack(own_redis: RedisServer, edge: Edge) -> AsyncIterator[Stack]:
    """A stack on one kind of Redis; TLS does not depend on it."""
    async with stacks.opened(own_redis.url, edge) as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files.within(tmp_path)
    files.write(AUTHORITY.server(DAY))
    files.client_ca.write_bytes(AUTHORITY.own.certificate)
    return files


@asynccontextmanager
async def channel(gateway: Gateway, own: Issued | None = None, trusted: bytes | None = None) -> AsyncIterator[Any]:
    """Opens a channel of gRPC's own, with a client certificate or without."""
    key, certificate = (own.key, own.certificate) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(trusted or AUTHORITY.own.certificate, key, certificate)
    async with grpc.aio.secure_channel(gateway.target, credentials) as opened:
        yield opened


async def list_models(opened: Any) -> list[str]:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(opened)
    return [model.name for model in (await stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=10)).models]


async def refused(gateway: Gateway, **how: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with channel(gateway, **how) as opened:
            await list_models(opened)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value


def shown_to_a_new_connection(gateway: Gateway) -> bytes:
    """Returns the certificate that a client that trusts the authority is shown, as DER."""
    context = ssl.create_default_context(cadata=AUTHORITY.own.certificate.decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = gateway.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw, context.wrap_socket(raw, server_hostname=host) as tls:
        assert tls.selected_alpn_protocol() == "h2"
        shown = tls.getpeercert(binary_form=True)
    assert shown is not None
    return shown


async def wait_until_shown(gateway: Gateway, issued: Issued) -> None:
    """Waits for a new connection that is shown a certificate."""

    async def is_shown() -> bool:
        shown = await asyncio.to_thread(shown_to_a_new_connection, gateway)
        return ssl.DER_cert_to_PEM_cert(shown).split() == issued.certificate.decode().split()

    await eventually(is_shown, "new connections are shown the new certificate")


async def serve(stack: Stack, **settings: Any) -> Gateway:
    """Starts a stack whose gateway has settings; returns the gateway."""
    await stack.add_worker(await stack.add_engine(simulated_step_ms=20.0))
    return await stack.add_gateway(**settings)


async def wait_until_served(gateway: Gateway, own: Issued | None = None) -> None:
    async with channel(gateway, own) as opened:

        async def is_served() -> bool:
            return await list_models(opened) == [MODEL]

        await eventually(is_served, "the worker is seen")


async def test_calls_and_streams_over_tls(stack: Stack, files: Files) -> None:
    gateway = await serve(stack, **files.settings)
    await wait_until_served(gateway)
    async with channel(gateway) as opened:
        stub: Any = generation_service_pb2_grpc.GenerationServiceStub(opened)
        whole = (await stub.Generate(pb.GenerateRequest(spec=spec()))).generation
        events = [response.event async for response in stub.GenerateStream(pb.GenerateStreamRequest(spec=spec()))]
    assert whole.state == g.GENERATION_STATE_FINISHED
    streamed = [token for event in events if event.HasField("delta") for token in event.delta.token_ids]
    assert streamed == list(whole.choices[0].token_ids)
    assert events[-1].HasField("finished")


async def test_a_client_that_trusts_another_authority_or_speaks_plain_text_gets_nothing(stack: Stack, files: Files) -> None:
    gateway = await stack.add_gateway(**files.settings)
    error = await refused(gateway, trusted=STRANGER.own.certificate)
    assert "CERTIFICATE_VERIFY_FAILED" in (error.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with grpc.aio.insecure_channel(gateway.target) as opened:
            await list_models(opened)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with channel(gateway) as opened:
        assert await list_models(opened) == []


async def test_clients_without_a_certificate_of_the_named_authorities_are_refused(stack: Stack, files: Files) -> None:
    gateway = await stack.add_gateway(**files.settings_with_client_ca)
    for own in (None, STRANGER.client("somebody", DAY), AUTHORITY.client("late", timedelta(minutes=-1))):
        await refused(gateway, own=own)
    async with channel(gateway, AUTHORITY.client("somebody", DAY)) as opened:
        assert await list_models(opened) == []


async def test_replaced_authorities_of_clients_count_for_new_connections(stack: Stack, files: Files) -> None:
    gateway = await stack.add_gateway(**files.settings_with_client_ca)
    files.client_ca.write_bytes(STRANGER.own.certificate)

    async def is_served() -> bool:
        try:
            async with channel(gateway, STRANGER.client("somebody", DAY)) as opened:
                return await list_models(opened) == []
        except grpc.aio.AioRpcError:
            return False

    await eventually(is_served, "a client of the new authority is served")
    await refused(gateway, own=AUTHORITY.client("somebody", DAY))


async def test_a_pair_that_does_not_fit_leaves_the_old_one(stack: Stack, files: Files) -> None:
    first, second, third = (AUTHORITY.server(DAY) for _ in range(3))
    files.write(first)
    gateway = await stack.add_gateway(**files.settings)
    await wait_until_shown(gateway, first)
    files.key.write_bytes(second.key)
    await asyncio.sleep(3 * LOOK_SECONDS)  # what does not happen can only be waited for
    await wait_until_shown(gateway, first)
    files.write(third)
    await wait_until_shown(gateway, third)


async def test_certificates_are_replaced_under_open_streams(stack: Stack, tmp_path: Path) -> None:
    volume = Volume(tmp_path / "secret", AUTHORITY.server(DAY))
    gateway = await serve(stack, **volume.files.settings)
    await wait_until_served(gateway)
    heard = [asyncio.Event() for _ in range(STREAMS)]
    sequences = [0] * STREAMS

    async def read(number: int, stub: Any) -> None:
        request = pb.GenerateStreamRequest(spec=spec(str(number), max_tokens=LONG))
        async for response in stub.GenerateStream(request):
            event = response.event
            if event.HasField("delta"):
                assert event.sequence == sequences[number] + len(event.delta.token_ids)
                sequences[number] = event.sequence
                heard[number].set()
        raise AssertionError("the stream has ended")

    async def all_go_on() -> None:
        for event in heard:
            event.clear()
        await asyncio.gather(*(event.wait() for event in heard))

    async with channel(gateway) as opened:
        stub = generation_service_pb2_grpc.GenerationServiceStub(opened)
        readers = [asyncio.create_task(read(number, stub)) for number in range(STREAMS)]
        broken = asyncio.create_task(_first_to_end(readers))
        for _ in range(REPLACEMENTS):
            fresh = AUTHORITY.server(DAY)
            volume.replace(fresh)
            await wait_until_shown(gateway, fresh)
            going_on = asyncio.create_task(all_go_on())
            await asyncio.wait({broken, going_on}, return_when=asyncio.FIRST_COMPLETED)
            assert not broken.done(), broken.exception()
        for reader in (broken, *readers):
            reader.cancel()


async def _first_to_end(tasks: list["asyncio.Task[None]"]) -> None:
    """Raises what a task raised, as soon as one has."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def test_a_gateway_does_not_start_with_a_pair_that_does_not_fit(own_redis: RedisServer, files: Files, edge: Edge) -> None:
    files.key.write_bytes(AUTHORITY.server(DAY).key)
    variables = {f"TOKENRELAY_{name.upper()}": value for name, value in files.settings.items()}
    status, said = run(f"gateway on {edge}", TOKENRELAY_REDIS_URL=own_redis.url, **variables)
    assert status == 2
    assert f"TOKENRELAY_TLS_KEY: {files.key} does not belong to the certificate\n" in said
    assert "PRIVATE" not in said
    assert "Traceback" not in said
