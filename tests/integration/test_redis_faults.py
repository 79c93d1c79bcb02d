"""The three services over a Redis that refuses, changes its role, stands still or forgets: no process ends, streams go on."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read, reason, started
from tests.integration.test_processes_come_and_go import check_whole, until
from tests.support import stack as stacks
from tests.support.redis_server import RedisServer, servers
from tests.support.stack import Edge
from tests.support.waiting import eventually
from tokenrelay.store import keys
from tokenrelay.v1 import generation_service_pb2 as s

LASTS = 2.0  # seconds; longer than a lease, so that leases run out meanwhile
TOKENS = 1500
USER, PASSWORD = "tokenrelay", "secret"
ALLOWED = ("~tokenrelay:*", "&tokenrelay:*", "+@all", "-@dangerous", "+info")

Step = Callable[[RedisServer, Any], Awaitable[None]]


@pytest.fixture(params=servers())
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(servers()[request.param], tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
async def operator(server: RedisServer) -> AsyncIterator[Any]:
    client: Any = Redis.from_url(server.url)
    await client.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *ALLOWED)
    yield client
    await client.aclose()


@pytest.fixture
async def served(server: RedisServer, operator: Any, edge: Edge) -> AsyncIterator[Served]:
    async with stacks.opened(f"unix://{USER}:{PASSWORD}@{server.socket}", edge) as stack:
        engine = await stack.add_engine()
        worker = await stack.add_worker(engine)
        gateway = await stack.add_gateway()
        await stack.wait_until_served(gateway)
        yield Served(stack, gateway, engine, worker, stack.stub(gateway))


async def demote(_: RedisServer, operator: Any) -> None:
    await operator.execute_command("REPLICAOF", "127.0.0.1", "1")


async def demote_without_old_data(server: RedisServer, operator: Any) -> None:
    await operator.config_set("replica-serve-stale-data", "no")
    await demote(server, operator)


async def promote(_: RedisServer, operator: Any) -> None:
    await operator.execute_command("REPLICAOF", "NO", "ONE")


async def want_a_replica(_: RedisServer, operator: Any) -> None:
    await operator.config_set("min-replicas-to-write", 1)


async def want_no_replica(_: RedisServer, operator: Any) -> None:
    await operator.config_set("min-replicas-to-write", 0)


async def hang(server: RedisServer, _: Any) -> None:
    server.signal(signal.SIGSTOP)


async def go_on(server: RedisServer, _: Any) -> None:
    server.signal(signal.SIGCONT)


async def take_permissions(_: RedisServer, operator: Any) -> None:
    await operator.execute_command("ACL", "SETUSER", USER, "-@write", "-evalsha")


async def give_permissions(_: RedisServer, operator: Any) -> None:
    await operator.execute_command("ACL", "SETUSER", USER, *ALLOWED)


async def delete_user(_: RedisServer, operator: Any) -> None:
    await operator.execute_command("ACL", "DELUSER", USER)


async def make_user(_: RedisServer, operator: Any) -> None:
    await operator.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *ALLOWED)


FAULTS: dict[str, tuple[Step, Step]] = {
    "demoted": (demote, promote),
    "demoted without old data": (demote_without_old_data, promote),
    "too few replicas": (want_a_replica, want_no_replica),
    "hangs": (hang, go_on),
    "takes permissions": (take_permissions, give_permissions),
    "deletes the user": (delete_user, make_user),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stream_goes_on_after_a_redis_that_refuses_for_a_while(
    served: Served, server: RedisServer, operator: Any, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    begin, end = FAULTS[fault]
    wanted = spec(max_tokens=TOKENS)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 200)
    with served.stack.captured_logs() as captured, caplog.at_level(logging.ERROR, logger="asyncio"):
        await begin(server, operator)
        await asyncio.sleep(LASTS)
        served.stack.assert_all_run()
        await end(server, operator)
        events += await read(call)
    check_whole(wanted, events, attempts=events[-1].finished.attempts)
    served.stack.assert_all_run()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
    assert [line for line in captured.lines() if "never retrieved" in line["event"]] == []


async def test_a_gateway_and_a_worker_start_against_a_replica_and_serve_once_it_leads(
    server: RedisServer, operator: Any, edge: Edge
) -> None:
    await demote(server, operator)
    async with stacks.opened(server.url, edge) as stack:
        engine = await stack.add_engine()
        starting = [asyncio.create_task(stack.add_worker(engine)), asyncio.create_task(stack.add_gateway())]
        done, _ = await asyncio.wait(starting, timeout=1.0)
        assert not done, "both wait"
        await promote(server, operator)
        _, gateway = await asyncio.gather(*starting)
        await stack.wait_until_served(gateway)


async def test_a_full_redis_and_a_dead_worker_end_no_worker(served: Served, operator: Any) -> None:
    other = await served.stack.add_worker(await served.stack.add_engine())
    await served.stack.wait_until_served(served.gateway, workers=2)
    queue = keys.queue(keys.JOBS, "simulated-test", 0)
    name = other.application._worker_id

    async def is_known() -> bool:
        return name.encode() in [consumer["name"] for consumer in await operator.xinfo_consumers(queue, keys.GROUP)]

    await operator.xgroup_createconsumer(queue, keys.GROUP, name)  # some servers make one only with the first entry
    await other.stop(abruptly=True)
    wanted = spec(max_tokens=TOKENS)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 100)
    await operator.config_set("maxmemory", 1)
    events += await read(call)
    check_whole(wanted, events, attempts=1)

    async def is_forgotten() -> bool:
        return not await is_known()

    await eventually(is_forgotten, "the dead one is forgotten, although Redis is full")
    served.stack.assert_all_run()


async def test_flushed_data_end_streams_and_no_process(served: Served, operator: Any) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)))
    await started(call)
    await operator.flushall()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.DATA_LOSS, "LOG_LOST")
    wanted = spec(max_tokens=20)

    async def is_served_again() -> bool:
        try:
            events = await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted)))
        except grpc.aio.AioRpcError:
            return False
        check_whole(wanted, events, attempts=1)
        return True

    await eventually(is_served_again, "new work is done")
    served.stack.assert_all_run()


async def test_all_callers_are_answered_within_their_patience_while_redis_hangs(served: Served, server: RedisServer) -> None:
    patience, callers = 2.0, 200
    gateway = await served.stack.add_gateway(call_patience_seconds=patience)
    stub = served.stack.stub(gateway)
    generation = (await stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec()))).generation_id
    request = spec()

    async def call(number: int) -> tuple[float, grpc.StatusCode]:
        calls: list[Callable[[], Any]] = [
            lambda: read(stub.GenerateStream(s.GenerateStreamRequest(spec=request))),
            lambda: stub.Generate(s.GenerateRequest(spec=request)),
            lambda: read(stub.AttachGeneration(s.AttachGenerationRequest(generation_id=generation))),
            lambda: stub.GetGeneration(s.GetGenerationRequest(generation_id=generation)),
            lambda: stub.CancelGeneration(s.CancelGenerationRequest(generation_id=generation)),
        ]
        begun = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls[number % len(calls)]()
        return time.monotonic() - begun, caught.value.code()

    server.signal(signal.SIGSTOP)
    answers = await asyncio.gather(*(call(number) for number in range(callers)))
    server.signal(signal.SIGCONT)
    assert {code for _, code in answers} == {grpc.StatusCode.UNAVAILABLE}
    # On a quiet machine within the patience and a second. Callers that wait for one another need ten seconds and more.
    assert max(seconds for seconds, _ in answers) < patience + 6
    served.stack.assert_all_run()
