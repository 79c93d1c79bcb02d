"""Real processes with an address of Redis that will not do: status 2, one line, no traceback and no password."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from tests.store.test_unfit_redis import SECRET
from tests.support.redis_server import RedisServer

PROGRAMS = {
    "gateway on grpcio": ["-m", "gateway"],
    "gateway on envoy": ["-m", "gateway"],
    "worker": ["-m", "broker_worker"],
    "dead letters": ["-m", "tokenrelay.admin.dead_letters", "list"],
}

GATEWAYS = ("gateway on grpcio", "gateway on envoy")


async def run(program: str, url: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *PROGRAMS[program],
        env={
            "TOKENRELAY_REDIS_URL": url,
            "TOKENRELAY_PORT": "0",
            "TOKENRELAY_EDGE": program.removeprefix("gateway on ") if program in GATEWAYS else "",
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("url", ["127.0.0.1:6379", f"redis://:{SECRET}@127.0.0.1:6379"])
async def test_a_wrong_address_is_told_in_a_line(program: str, url: str) -> None:
    check(*await run(program, url))


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_wrong_password_and_a_missing_permission_are_told_in_a_line(
    program: str, redis: RedisServer, client: Any
) -> None:
    check(*await run(program, f"unix://u:{SECRET.replace('@', '%40').replace('/', '%2F').replace('#', '%23')}@{redis.socket}"))
    await client.execute_command("ACL", "SETUSER", "u", "reset", "on", ">secret", "~tokenrelay:*", "&*", "+@all", "-@dangerous")
    try:
        lines = check(*await run(program, f"unix://u:secret@{redis.socket}"))
    finally:
        await client.execute_command("ACL", "DELUSER", "u")
    assert "info" in lines


def check(status: int | None, out: str, err: str) -> str:
    assert "Traceback" not in out + err
    assert "p@ss" not in out + err
    assert "w/rd" not in out + err
    assert "secret" not in out + err
    lines = [line for line in err.strip().splitlines() if not line.startswith("{")]  # without the log
    assert [line.partition(":")[0] for line in lines] == ["TOKENRELAY_REDIS_URL"], err
    assert status == 2, (status, out, err)
    return err
