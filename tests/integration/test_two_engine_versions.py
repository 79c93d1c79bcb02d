"""Workers whose engines have different fingerprints, as in a rolling upgrade."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read, reason
from tests.integration.test_processes_come_and_go import check_whole, until
from tests.support.stack import Running, Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

STREAMS = 8
NEWER = {"simulated_version": "2"}


async def begin(served: Served, count: int) -> tuple[list[Any], list[list[g.GenerationEvent]]]:
    wanted = [spec(f"stream {number}", max_tokens=3000) for number in range(count)]
    calls = [served.stub.GenerateStream(s.GenerateStreamRequest(spec=one)) for one in wanted]
    return calls, await asyncio.gather(*(until(call, 50) for call in calls))


async def check_all(calls: Sequence[Any], begun: Sequence[list[g.GenerationEvent]], attempts: int) -> None:
    for number, (call, events) in enumerate(zip(calls, begun, strict=True)):
        whole = [*events, *await read(call)]
        check_whole(spec(f"stream {number}", max_tokens=3000), whole, attempts=attempts)


async def works(worker: Running) -> None:
    await eventually(lambda: worker.application.work.driver is not None, "the worker is at work")


@pytest.mark.parametrize("abruptly", [False, True])
async def test_streams_go_on_with_the_engine_that_is_like_theirs(served: Served, abruptly: bool) -> None:
    calls, begun = await begin(served, STREAMS)
    await works(await served.stack.add_worker(await served.stack.add_engine(**NEWER)))
    await works(await served.stack.add_worker(await served.stack.add_engine()))
    if abruptly:
        await served.worker.stop(abruptly=True)
    else:
        await served.worker.drain()
    await check_all(calls, begun, attempts=2)


async def test_streams_wait_for_a_full_engine_that_is_like_theirs(served: Served) -> None:
    calls, begun = await begin(served, STREAMS)
    newer = await served.stack.add_worker(await served.stack.add_engine(**NEWER))
    await works(newer)
    await works(await served.stack.add_worker(await served.stack.add_engine(simulated_slots=1)))
    asked = _count_claims(newer)
    await served.worker.drain()
    await check_all(calls, begun, attempts=2)
    others = spec("something new", max_tokens=20)
    check_whole(others, await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=others))), attempts=1)
    assert len(asked) < 100, "the newer one does not ask for them all the time"


async def test_what_is_new_runs_on_any_engine_meanwhile(served: Served) -> None:
    calls, begun = await begin(served, 1)
    await works(await served.stack.add_worker(await served.stack.add_engine(**NEWER)))
    await works(await served.stack.add_worker(await served.stack.add_engine(simulated_slots=1, simulated_step_ms=2.0)))
    await served.worker.drain()
    for number in range(5):
        others = spec(f"new {number}", max_tokens=20)
        check_whole(others, await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=others))), attempts=1)
    await check_all(calls, begun, attempts=2)


async def test_a_stream_whose_last_engine_is_gone_is_told_so(stack: Stack, served: Served) -> None:
    calls, _ = await begin(served, 1)
    await works(await stack.add_worker(await stack.add_engine(**NEWER)))
    await served.worker.drain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(30):
            await read(calls[0])
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.ABORTED, "CANNOT_CONTINUE")


def _count_claims(worker: Running) -> list[int]:
    store = worker.application._store.attempts
    claim, asked = store.claim, []

    async def counted(*arguments: Any, **named: Any) -> Any:
        asked.append(1)
        return await claim(*arguments, **named)

    store.claim = counted
    return asked
