"""What `make up` and `make demo` refuse or wait for, and say so in a line; no engine is started for it."""

import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes.ports import free_ports
from deploy.local import redis_server
from deploy.local.plan import Process
from deploy.local.supervision import Supervisor
from tests.support import local_stack
from tests.support.local_stack import LocalStack
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

SECRET = "p%40 ss;#word"


def refused(stack: LocalStack, command: str = "up") -> str:
    """Runs a command that must end with status 1; returns what it printed."""
    done = stack.command(command)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert stack.supervisor.pid() is None
    return done.stdout


def test_a_redis_that_is_not_there_is_named_at_once_and_given_up(tmp_path: Path) -> None:
    url = f"redis://user:{SECRET.replace(' ', '').replace('#', '')}@127.0.0.1:{free_ports()}/0"
    stack = local_stack.new(tmp_path, ENGINE="simulated", REDIS_URL=url, REDIS_SECONDS="0.5")
    waiting, gave_up = refused(stack).splitlines()
    assert "Redis cannot be reached; trying again for 0.5 s" in waiting
    assert "given up after 0.5 s (Redis cannot be reached); start it, or wait longer with REDIS_SECONDS=" in gave_up
    assert "word" not in waiting + gave_up
    assert not (tmp_path / "logs").exists(), "nothing was started"


def test_a_redis_that_hangs_is_given_up_too(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        stack = local_stack.new(tmp_path, ENGINE="simulated", REDIS_URL=url, REDIS_SECONDS="3")
        waiting, gave_up = refused(stack).splitlines()
    assert "Redis does not answer; trying again for 3 s" in waiting
    assert "given up after 3 s (Redis does not answer)" in gave_up


def test_a_redis_that_refuses_the_password_is_given_up_and_the_password_not_shown(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    client = own_redis.client()
    client.config_set("requirepass", "another")
    client.close()
    url = f"{own_redis.url}?password={SECRET.replace('#', '%23')}"
    stack = local_stack.new(tmp_path / "state", ENGINE="simulated", REDIS_URL=url, REDIS_SECONDS="0.5")
    said = refused(stack)
    assert f"REDIS_URL: {own_redis.url}?password=***: " in said
    assert "23word" not in said


def test_a_data_folder_of_a_newer_server_is_refused(tmp_path: Path) -> None:
    appended = tmp_path / "redis" / "appendonlydir"
    appended.mkdir(parents=True)
    (appended / "appendonly.aof.1.base.rdb").write_bytes(b"VALKEY080\xfa\x0avalkey-ver\x0599.1.2\xfa\x0aredis-bits\xc0\x40")
    stack = local_stack.new(tmp_path, ENGINE="simulated")
    (said,) = refused(stack).splitlines()
    server = next(iter(redis_server.executables().values()))
    assert f"{tmp_path / 'redis'} was written by Valkey 99.1, and {redis_server.version(server)}" in said
    assert "choose another folder with STATE=" in said


def test_a_demo_deletes_nothing_that_it_has_not_made(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "precious").write_text("data")
    (said,) = refused(local_stack.new(tmp_path, ENGINE="simulated"), "demo").splitlines()
    assert f"{tmp_path / 'demo'} is there and was not made by Tokenrelay" in said
    assert (tmp_path / "demo" / "precious").read_text() == "data"


def test_an_engine_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    stack = local_stack.new(tmp_path, ENGINE="simulated", START_SECONDS="3")
    stack.environment["TOKENRELAY_SIMULATED_STEP_MS"] = "100000"  # its first token never comes
    said = refused(stack).splitlines()[-1]
    assert "not ready after 3 s: " in said
    assert "START_SECONDS= gives it longer" in said


# ---- What the supervisor is told ----

AWKWARD = {
    "ONE": "100%",
    "TWO": 'a "quoted" \\backslash\\',
    "THREE": "several\nlines",
    "FOUR": "before #hash and ;semicolon and %(here)s and 'single'",
    "TOKENRELAY_REDIS_URL": f"redis://:{SECRET}@h/0",
}


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[tuple[Supervisor, Path]]:
    """A process that writes down its variables, in a folder whose name has all kinds of characters."""
    state = tmp_path / "a %x b;c #d 'e' \"f\""
    script = tmp_path / "show.py"
    script.write_text(
        "import json, os, pathlib, signal, sys\n"
        "done = pathlib.Path(sys.argv[1])\n"
        "done.with_suffix('.new').write_text(json.dumps([dict(os.environ), sys.argv[2:]]))\n"
        "done.with_suffix('.new').rename(done)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "done"), *AWKWARD.values()]
    supervisor = Supervisor(state)
    supervisor.start([Process("shown", command, (), 10, {**AWKWARD})])
    yield supervisor, tmp_path / "done"
    supervisor.stop()


async def test_variables_and_arguments_arrive_as_they_are(shown: tuple[Supervisor, Path]) -> None:
    _, done = shown
    await eventually(done.exists, "the process has written down what it got")
    environment, arguments = json.loads(done.read_text())
    assert AWKWARD.items() <= environment.items()
    assert arguments == list(AWKWARD.values())
    assert not [name for name in environment if name.startswith("TOKENRELAY_STACK_")]


async def test_no_password_is_in_a_file_that_others_can_read(shown: tuple[Supervisor, Path], tmp_path: Path) -> None:
    supervisor, done = shown
    await eventually(done.exists, "the process runs")
    assert set(holding_the_password(tmp_path)) == {"0o600"}
    pid = supervisor.pid()
    assert pid is not None
    assert SECRET not in Path(f"/proc/{pid}/cmdline").read_text()  # noqa: ASYNC240  # no disk is read
    await asyncio.to_thread(supervisor.stop)
    assert holding_the_password(tmp_path) == []


def holding_the_password(folder: Path) -> list[str]:
    """Returns the modes of files below the state folder that hold it."""
    (state,) = [path for path in folder.iterdir() if path.is_dir()]
    files = [path for path in state.rglob("*") if path.is_file() and not path.is_symlink()]
    return [oct(path.stat().st_mode & 0o777) for path in files if SECRET.encode() in path.read_bytes()]
