"""A whole stack: gateway, worker and simulated engine on a real Redis, once for each edge of the gateway."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import stack as stacks
from tests.support.redis_server import RedisServer
from tests.support.stack import Edge, Gateway, Running, Stack
from tokenrelay.v1 import generation_pb2


@dataclass
class Served:
    """A stack that serves, and its parts."""

    stack: Stack
    gateway: Gateway
    engine: Running
    worker: Running
    stub: Any


@pytest.fixture
async def stack(redis: RedisServer, edge: Edge) -> AsyncIterator[Stack]:
    async with stacks.opened(redis.url, edge) as opened:
        yield opened


@pytest.fixture
async def served(stack: Stack) -> Served:
    engine = await stack.add_engine()
    worker = await stack.add_worker(engine)
    gateway = await stack.add_gateway(disconnect_grace_seconds=1.0)
    await stack.wait_until_served(gateway)
    return Served(stack, gateway, engine, worker, stack.stub(gateway))


def spec(text: str = "hello", **sampling: Any) -> generation_pb2.GenerationSpec:
    sampling = {"max_tokens": 20, "ignore_eos": True, **sampling}
    return generation_pb2.GenerationSpec(text=text, sampling_params=generation_pb2.SamplingParams(**sampling))
