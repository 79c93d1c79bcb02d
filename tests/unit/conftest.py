"""Fixtures of unit tests that need a real engine: one vLLM engine service for all of them."""

from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from tests.support.vllm_engine import Engine, vllm_engine


@pytest.fixture(scope="session")
def vllm_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with vllm_engine(tmp_path_factory.mktemp("engine") / "log") as port:
        yield port


@pytest.fixture
async def engine(vllm_port: int) -> AsyncIterator[Engine]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{vllm_port}") as channel:
        yield Engine(channel)
