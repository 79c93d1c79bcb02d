"""The client library in both classes, and what reflection lists."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tests.integration.conftest import Served, spec
from tests.integration.test_calls import state_of
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay import errors
from tokenrelay.client import AsyncClient, Client, RetryPolicy
from tokenrelay.client.requests import Options
from tokenrelay.v1 import generation_pb2 as g

ROOT = Path(__file__).resolve().parents[2]
LIMITS: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True}


def expected(text: str = "hello", **sampling: Any) -> tuple[list[int], str]:
    ids = list(expected_tokens(spec(text, **sampling)))
    return ids, text_of(ids)


async def run(*command: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_asynchronous_client(served: Served) -> None:
    async with AsyncClient(served.gateway.target) as client:
        whole = await client.generate("hello", **LIMITS)
        assert (list(whole.choices[0].token_ids), whole.choices[0].text) == expected()
        async with client.stream("hello", **LIMITS) as stream:
            assert await stream.text() == expected()[1]
            assert stream.finished is not None
        name = await client.submit("hello", **LIMITS)
        async with client.attach(name) as attached:
            assert await attached.text() == expected()[1]
        assert (await client.get(name)).state == g.GENERATION_STATE_FINISHED
        assert await client.cancel(name) == g.GENERATION_STATE_FINISHED
        assert [model.name for model in await client.models()] == ["simulated-test"]
        with pytest.raises(errors.InvalidRequestError, match="temperature: is 9") as caught:
            await client.generate("hello", temperature=9)
        assert caught.value.violations[0].field == "spec.sampling_params.temperature"
        with pytest.raises(errors.GenerationNotFoundError):
            await client.get("0-" + "0" * 32)


async def test_the_synchronous_client(served: Served) -> None:
    def use() -> None:
        with Client(served.gateway.target) as client:
            whole = client.generate("hello", **LIMITS)
            assert (list(whole.choices[0].token_ids), whole.choices[0].text) == expected()
            with client.stream("hello", **LIMITS) as stream:
                assert stream.text() == expected()[1]
                assert stream.finished is not None
            name = client.submit("hello", **LIMITS)
            with client.attach(name) as attached:
                assert attached.text() == expected()[1]
            assert client.get(name).state == g.GENERATION_STATE_FINISHED
            assert client.cancel(name) == g.GENERATION_STATE_FINISHED
            assert [model.name for model in client.models()] == ["simulated-test"]
            with pytest.raises(errors.InvalidRequestError, match="temperature: is 9") as caught:
                client.generate("hello", temperature=9)
            assert caught.value.violations[0].field == "spec.sampling_params.temperature"

    await asyncio.to_thread(use)


async def test_both_classes_have_one_surface() -> None:
    def surface(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert surface(Client) == surface(AsyncClient)


async def test_leaving_a_stream_early_cancels_its_generation(served: Served) -> None:
    gateway = await served.stack.add_gateway(disconnect_grace_seconds=1000.0)  # which it must not wait for
    await served.stack.wait_until_served(gateway)
    async with AsyncClient(gateway.target) as client:
        async with client.stream("hello", max_tokens=100_000, ignore_eos=True) as stream:
            async for _ in stream:
                break
        name = stream.generation_id

    async def cancelled() -> bool:
        return await state_of(served, name) == "CANCELLED"

    await eventually(cancelled, "the generation is cancelled")


@pytest.fixture
async def stalled(stack: Stack) -> Served:
    """A stack that accepts generations and has no slot for them: they have no token for a long time."""
    engine = await stack.add_engine(simulated_slots=1)
    worker = await stack.add_worker(engine)
    gateway = await stack.add_gateway(disconnect_grace_seconds=1000.0)
    await stack.wait_until_served(gateway)
    served = Served(stack, gateway, engine, worker, stack.stub(gateway))
    async with AsyncClient(gateway.target) as client:
        name = await client.submit("first", max_tokens=100_000, ignore_eos=True)
    await eventually(stands(served, name, "RUNNING"), "the only slot is taken")
    return served


def stands(served: Served, name: str, state: str) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def is_so() -> bool:
        return await state_of(served, name) == state

    return is_so


async def test_a_stream_may_be_closed_while_another_task_reads_it(stalled: Served) -> None:
    async with AsyncClient(stalled.gateway.target) as client:
        stream = client.stream("hello")
        reading = asyncio.create_task(stream.text())
        await eventually(lambda: stream.generation_id, "the generation is accepted")
        await stream.close()
        with pytest.raises(errors.GenerationCancelledError, match="closed before its end"):
            await reading
        await eventually(stands(stalled, stream.generation_id, "CANCELLED"), "the generation is cancelled")


async def test_a_reader_that_is_cancelled_itself_hears_that_even_if_the_stream_is_closed(stalled: Served) -> None:
    async with AsyncClient(stalled.gateway.target) as client:
        stream = client.stream("hello")
        reading = asyncio.create_task(stream.text())
        await eventually(lambda: stream.generation_id, "the generation is accepted")
        reading.cancel()
        await stream.close()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_a_stream_may_be_closed_while_another_thread_reads_it(stalled: Served) -> None:
    with Client(stalled.gateway.target) as client:
        stream = client.stream("hello")
        reading = asyncio.create_task(asyncio.to_thread(stream.text))
        await eventually(lambda: stream.generation_id, "the generation is accepted")
        await asyncio.to_thread(stream.close)
        with pytest.raises(errors.GenerationCancelledError):
            await reading
        await eventually(stands(stalled, stream.generation_id, "CANCELLED"), "the generation is cancelled")


async def test_a_stream_that_is_closed_while_it_waits_to_try_again_opens_no_other_call(served: Served) -> None:
    waiting = asyncio.Event()
    retry = RetryPolicy(first_delay=0.2, on_wait=lambda *_: waiting.set())
    async with AsyncClient(f"127.0.0.1:1,{served.gateway.target}", retry=retry) as client:
        stream = client.stream("hello", **LIMITS)
        reading = asyncio.create_task(stream.text())
        await waiting.wait()
        await stream.close()
        with pytest.raises(errors.GenerationCancelledError):
            await reading


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans that the clients end from now on."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("tokenrelay.client.tracing.trace.get_tracer", provider.get_tracer)
    return exporter


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_stream_s_span_tells_how_it_ended(served: Served, exported: InMemorySpanExporter, asynchronous: bool) -> None:
    def read() -> None:
        with Client(served.gateway.target) as client:
            with client.stream("hello", **LIMITS) as stream:
                stream.text()
            with pytest.raises(errors.InvalidRequestError), client.stream("hello", temperature=9) as stream:
                stream.text()
            with client.stream("hello", max_tokens=100_000, ignore_eos=True) as stream:
                next(iter(stream))

    async def read_asynchronously() -> None:
        async with AsyncClient(served.gateway.target) as client:
            async with client.stream("hello", **LIMITS) as stream:
                await stream.text()
            with pytest.raises(errors.InvalidRequestError):
                async with client.stream("hello", temperature=9) as stream:
                    await stream.text()
            async with client.stream("hello", max_tokens=100_000, ignore_eos=True) as stream:
                await anext(aiter(stream))

    await (read_asynchronously() if asynchronous else asyncio.to_thread(read))
    statuses = [(span.status.status_code, span.status.description) for span in exported.get_finished_spans()]
    assert statuses == [
        (StatusCode.UNSET, None),
        (StatusCode.ERROR, "InvalidRequestError"),
        (StatusCode.ERROR, "GenerationCancelledError"),
    ]


async def test_leaving_an_attached_stream_cancels_nothing(served: Served) -> None:
    async with AsyncClient(served.gateway.target) as client:
        name = await client.submit("hello", max_tokens=500, ignore_eos=True)
        async with client.attach(name) as stream:
            async for _ in stream:
                break

    async def finished() -> bool:
        return await state_of(served, name) == "FINISHED"

    await eventually(finished, "it ran to its end")


async def test_a_stream_goes_on_through_another_gateway_by_itself(served: Served) -> None:
    second = await served.stack.add_gateway()
    targets = f"{served.gateway.target},{second.target}"
    async with AsyncClient(targets) as client:
        async with client.stream("hello", max_tokens=3000, ignore_eos=True) as stream:
            texts: list[str] = []
            ids: list[int] = []
            is_stopped = False
            async for delta in stream:
                texts.append(delta.text)
                ids.extend(delta.token_ids)
                if stream.position.sequence > 300 and not is_stopped:
                    is_stopped = True
                    await served.gateway.stop(abruptly=True)
        assert (ids, "".join(texts)) == expected(max_tokens=3000)
        assert stream.finished is not None
        assert stream.finished.attempts == 1


async def test_the_synchronous_stream_goes_on_too(served: Served) -> None:
    second = await served.stack.add_gateway()
    reached, ready = asyncio.Event(), asyncio.get_running_loop()

    def use() -> tuple[list[int], str]:
        texts: list[str] = []
        ids: list[int] = []
        targets = [served.gateway.target, second.target]
        with Client(targets) as client, client.stream("hello", max_tokens=3000, ignore_eos=True) as stream:
            for delta in stream:
                texts.append(delta.text)
                ids.extend(delta.token_ids)
                if len(ids) > 300:
                    ready.call_soon_threadsafe(reached.set)
        return ids, "".join(texts)

    using = asyncio.create_task(asyncio.to_thread(use))
    await reached.wait()
    await served.gateway.stop(abruptly=True)
    assert await using == expected(max_tokens=3000)


async def test_a_lost_gateway_is_given_up_on_in_the_end(served: Served) -> None:
    async with AsyncClient("127.0.0.1:1", retry=RetryPolicy(give_up_after=0.2)) as client:
        with pytest.raises(errors.UnavailableError):
            await client.generate("hello")


async def test_a_retry_with_the_same_key_joins(served: Served) -> None:
    async with AsyncClient(served.gateway.target) as client:
        options = Options(idempotency_key="the same")
        first = await client.generate("hello", options=options, **LIMITS)
        second = await client.generate("hello", options=options, **LIMITS)
        assert first.generation_id == second.generation_id
        with pytest.raises(errors.IdempotencyConflictError):
            await client.generate("other", options=options, **LIMITS)


BUF_CURL = (str(ROOT / "node_modules/.bin/buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge")


async def test_buf_curl_lists_the_services(served: Served) -> None:
    code, out, err = await run(*BUF_CURL, "--list-services", f"http://{served.gateway.target}")
    assert code == 0, err
    assert out.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tokenrelay.v1.GenerationService",
        "tokenrelay.v1.ModelService",
    ]


async def test_reflection_can_be_turned_off(served: Served) -> None:
    closed = await served.stack.add_gateway(reflection=False)
    code, _, err = await run(*BUF_CURL, "--list-services", f"http://{closed.target}")
    assert code != 0
    assert "unimplemented" in err
