"""Behind a proxy a lost gateway looks otherwise than without one; the clients go on all the same."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.integration.conftest import Served
from tests.integration.test_clients import LIMITS, expected
from tests.support import http2_proxy
from tests.support.http2_proxy import Cut, Http2Proxy
from tests.support.waiting import eventually
from tokenrelay import errors
from tokenrelay.client import AsyncClient, Client, RetryPolicy
from tokenrelay.v1 import generation_pb2 as g

# HTTP/2's NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, CONNECT_ERROR; gRPC's statuses; HTTP's.
CUTS = {
    **{f"reset {code}": http2_proxy.reset(code) for code in (0, 1, 2, 7, 8, 10)},
    **{f"status {code}": http2_proxy.status(code) for code in (1, 2, 4, 13, 14)},
    **{f"page {code}": http2_proxy.page(code) for code in (500, 502, 503, 504)},
}
LONG: dict[str, Any] = {"max_tokens": 1000, "ignore_eos": True}
HASTY = RetryPolicy(first_delay=0.01)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_streams_go_on(served: Served, cut: Cut) -> None:
    second = await served.stack.add_gateway()
    async with Http2Proxy([served.gateway.target, second.target]) as proxy, AsyncClient(proxy.target, retry=HASTY) as client:
        name = await client.submit("hello", **LONG)
        streams = client.stream("hello", **LONG), client.attach(name)
        reading = [asyncio.create_task(read_and_reach(stream)) for stream in streams]
        await eventually(lambda: all(stream.position.sequence > 100 for stream in streams), "both streams are under way")
        assert proxy.cut(cut) == 2
        for ids, text in await asyncio.gather(*reading):
            assert (ids, text) == expected(max_tokens=1000)


async def read_and_reach(stream: Any) -> tuple[list[int], str]:
    ids: list[int] = []
    texts: list[str] = []
    async for delta in stream:
        ids.extend(delta.token_ids)
        texts.append(delta.text)
    return ids, "".join(texts)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_unary_calls_are_made_again(served: Served, cut: Cut) -> None:
    async with AsyncClient(served.gateway.target) as client:
        name = await client.submit("hello", **LIMITS)
        async with client.attach(name) as attached:
            await attached.text()

    async with Http2Proxy([served.gateway.target], holding=True) as proxy, AsyncClient(proxy.target, retry=HASTY) as client:
        calls: list[asyncio.Task[Any]] = [
            asyncio.create_task(call)
            for call in (client.generate("hello", **LIMITS), client.get(name), client.cancel(name), client.models())
        ]
        await eventually(lambda: proxy.opened == 4, "all calls are under way")
        proxy.cut(cut)
        whole, found, state, models = await asyncio.gather(*calls)
    assert whole.choices[0].text == found.choices[0].text == expected()[1]
    assert state == g.GENERATION_STATE_FINISHED
    assert len(models) == 1


@pytest.mark.parametrize("cut", [http2_proxy.reset(2), http2_proxy.status(4)], ids=["reset 2", "status 4"])
async def test_the_synchronous_client_goes_on_too(served: Served, cut: Cut) -> None:
    async with Http2Proxy([served.gateway.target]) as proxy:
        with Client(proxy.target, retry=HASTY) as client:
            stream = client.stream("hello", **LONG)
            reading = asyncio.create_task(asyncio.to_thread(stream.text))
            await eventually(lambda: stream.position.sequence > 100, "the stream is under way")
            proxy.cut(cut)
            assert await reading == expected(max_tokens=1000)[1]
    async with Http2Proxy([served.gateway.target], holding=True) as proxy:
        with Client(proxy.target, retry=HASTY) as client:
            calling = asyncio.create_task(asyncio.to_thread(lambda: client.generate("hello", **LIMITS)))
            await eventually(lambda: proxy.opened == 1, "the call is under way")
            proxy.cut(cut)
            assert (await calling).choices[0].text == expected()[1]


async def test_what_a_gateway_says_itself_passes_a_proxy(served: Served) -> None:
    async with Http2Proxy([served.gateway.target]) as proxy, AsyncClient(proxy.target) as client:
        refused: list[tuple[type[Exception], Callable[[], Awaitable[object]]]] = [
            (errors.InvalidRequestError, lambda: client.generate("hello", temperature=9)),
            (errors.GenerationNotFoundError, lambda: client.get("0-" + "0" * 32)),
            (errors.MessageTooLargeError, lambda: client.generate("x" * (5 * 1024 * 1024))),
        ]
        for kind, call in refused:
            with pytest.raises(kind):
                await asyncio.wait_for(call(), 60)
