"""Which processes a stack has; planning makes nothing and reads nothing."""

import os
import socket
from pathlib import Path

import pytest

from deploy.local import plan, readiness
from deploy.local.machine import Machine
from deploy.local.plan import NoRedisError
from deploy.local.readiness import NotReadyError
from deploy.local.settings import StackSettings

MACHINE = Machine(redis="/usr/bin/redis-server", cores=(3, 5), kv_cache_gib="2")


def test_planning_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    redis, *others = plan.processes(StackSettings(state=tmp_path / "state"), MACHINE)
    assert redis.folder == tmp_path / "state" / "redis"
    assert redis.command[0] == MACHINE.redis
    assert not (tmp_path / "state").exists()
    (engine,) = [one for one in others if one.name == "engine-1"]
    assert engine.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert engine.environment["TOKENRELAY_ENGINE_CORE_CPUS"] == "3"


def redis_and_its_users(settings: StackSettings) -> tuple[list[str], set[str]]:
    redis, *others = plan.processes(settings, MACHINE)
    urls = (one.environment.get("TOKENRELAY_REDIS_URL") for one in others)
    return redis.command, {url for url in urls if url is not None}


def test_processes_reach_the_stacks_redis_over_a_socket(tmp_path: Path) -> None:
    command, urls = redis_and_its_users(StackSettings(state=tmp_path))
    path = str(tmp_path / "redis.sock")
    assert command[command.index("--unixsocket") + 1] == path
    assert urls == {f"unix://{path}?db=0"}


def test_a_folder_whose_name_is_too_long_for_a_socket_leaves_the_port(tmp_path: Path) -> None:
    command, urls = redis_and_its_users(StackSettings(state=tmp_path / ("x" * 100), port=20_000))
    assert "--unixsocket" not in command
    assert urls == {"redis://127.0.0.1:20060/0"}


def test_a_machine_without_a_redis_is_told_so() -> None:
    with pytest.raises(NoRedisError, match="set REDIS_URL"):
        plan.processes(StackSettings(), Machine(redis=None, cores=(0,)))
    named = [one.name for one in plan.processes(StackSettings(redis_url="redis://h"), Machine(redis=None, cores=(0,)))]
    assert "redis" not in named


def test_a_stack_beside_another_finds_other_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = readiness.free_port(StackSettings(port=max(1024, port - 30)), MACHINE)
    assert found != port - 30
    assert 1024 <= found <= 65_000


def test_a_search_begins_anew_below_the_highest_port(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def check(processes: list[plan.Process]) -> None:
        (gateway,) = [one for one in processes if one.name == "gateway-1"]
        asked.append(gateway.ports[0])
        if gateway.ports[0] != 22_050:
            raise NotReadyError

    monkeypatch.setattr(readiness, "check_ports", check)
    assert readiness.free_port(StackSettings(port=64_500), MACHINE) == 22_050
    assert asked[:2] == [64_500, 20_050]


def test_a_machine_without_a_free_port_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: list[plan.Process]) -> None:
        raise NotReadyError

    monkeypatch.setattr(readiness, "check_ports", refuse)
    with pytest.raises(NotReadyError, match="ports are in use from 64500 on and from 20050 on"):
        readiness.free_port(StackSettings(port=64_500), MACHINE)
