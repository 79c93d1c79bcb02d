"""`make up` and what belongs to it, with the simulated engine."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes.ports import free_ports
from deploy.local import __main__ as commands
from deploy.local import own_folder, plan, supervision
from deploy.local.plan import Process
from deploy.local.settings import PREFIX, StackSettings
from deploy.local.supervision import Supervisor, UnsafeFolderError
from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tests.integration.conftest import spec
from tests.support import local_stack
from tests.support.local_stack import LocalStack, run
from tests.support.waiting import eventually
from tokenrelay.client import AsyncClient

EXAMPLES = sorted(path.stem for path in (local_stack.ROOT / "clients/examples").glob("[a-z]*.py"))


def cli(stack: LocalStack, *arguments: str, stdin: str = "") -> "asyncio.Future[tuple[int, str, str]]":
    command = (str(local_stack.ROOT / ".venv/bin/tokenrelay"), "--target", ",".join(stack.targets), *arguments)
    environment = {**stack_tracing(stack), "COLUMNS": "160"}
    return asyncio.ensure_future(run(*command, environment=environment, stdin=stdin))


def stack_tracing(stack: LocalStack) -> dict[str, str]:

    return {**plan.tracing_environment(stack.settings), "TOKENRELAY_TRACES_URL": plan.traces_url(stack.settings)}


def text(prompt: str, max_tokens: int) -> str:
    return text_of(list(expected_tokens(spec(prompt, max_tokens=max_tokens, ignore_eos=False))))


async def test_status_shows_every_process(simulated_stack: LocalStack) -> None:
    shown = simulated_stack.command("status")
    assert shown.returncode == 0
    for name in ("redis", "traces", "engine-1", "engine-2", "worker-1", "worker-2", "gateway-1", "gateway-2"):
        assert name in shown.stdout
    assert "simulated-demo" in shown.stdout


async def test_logs_are_shown(simulated_stack: LocalStack) -> None:
    shown = simulated_stack.command("logs")
    assert shown.returncode == 0
    assert "serving" in shown.stdout
    assert "gateway-1.log" in shown.stdout


async def test_a_second_up_says_that_it_runs(simulated_stack: LocalStack) -> None:
    again = simulated_stack.command("up")
    assert again.returncode == 1
    assert "running already" in again.stdout


async def test_a_port_in_use_is_a_clear_error(simulated_stack: LocalStack, tmp_path: Path) -> None:
    other = local_stack.new(tmp_path, ENGINE="simulated")
    environment = {**other.environment, f"{PREFIX}PORT": str(simulated_stack.settings.port)}
    refused = LocalStack(other.settings, environment).command("up")
    assert refused.returncode == 1
    assert f"port {simulated_stack.settings.port + 60} is in use; choose another with PORT=" in refused.stdout


async def test_a_wrong_setting_names_its_variable(tmp_path: Path) -> None:
    stack = local_stack.new(tmp_path, ENGINE="simulated")
    refused = LocalStack(stack.settings, {**stack.environment, f"{PREFIX}WORKERS": "0"}).command("up")
    assert refused.returncode == 2
    assert "TOKENRELAY_WORKERS: " in refused.stdout


@pytest.mark.parametrize("name", ["redis", "engine-1", "worker-1", "gateway-1"])
async def test_what_crashes_is_started_again_and_the_streams_go_on(simulated_stack: LocalStack, name: str) -> None:
    prompts = [f"{name} {number}" for number in range(8)]

    async def tell(client: AsyncClient, prompt: str) -> str:
        async with client.stream(prompt, max_tokens=300, ignore_eos=True) as stream:
            return await stream.text()

    async with AsyncClient(simulated_stack.targets) as client:
        telling = [asyncio.create_task(tell(client, prompt)) for prompt in prompts]
        await asyncio.sleep(1)  # so that the crash comes in the middle of all of them
        killed = simulated_stack.kill(name, signal.SIGKILL)
        told = await asyncio.gather(*telling)
    for prompt, got in zip(prompts, told, strict=True):
        assert got == text_of(list(expected_tokens(spec(prompt, max_tokens=300)))), prompt
    await eventually(lambda: simulated_stack.pid(name) not in (0, killed), f"{name} runs again")


async def test_the_command_line(simulated_stack: LocalStack) -> None:
    whole = text("hello", 12)
    code, out, err = await cli(simulated_stack, "generate", "--max-tokens", "12", "--timings", "hello")
    assert code == 0, err
    assert out.startswith(whole)
    assert "queue wait" in out
    code, out, err = await cli(simulated_stack, "stream", "--max-tokens", "12", "--timings", "--trace", "hello")
    assert code == 0, err
    assert out.startswith(whole)
    assert "measured by the client" in out
    for span in ("client", "gateway", "queue wait", "dispatch", "prefill", "decode", "append", "relay"):
        assert span in out.partition("Trace ")[2], span
    code, out, err = await cli(simulated_stack, "generate", "--json", "--max-tokens", "3", "-", stdin="from standard input")
    assert code == 0, err
    assert '"GENERATION_STATE_FINISHED"' in out
    code, out, err = await cli(simulated_stack, "models")
    assert code == 0, err
    assert "simulated: computes no model" in out


async def test_the_command_line_with_a_submitted_generation(simulated_stack: LocalStack) -> None:
    code, out, err = await cli(simulated_stack, "submit", "--max-tokens", "12", "hello")
    assert code == 0, err
    name = out.strip()
    code, out, err = await cli(simulated_stack, "attach", name)
    assert (code, out) == (0, text("hello", 12) + "\n"), err
    code, out, err = await cli(simulated_stack, "get", name)
    assert code == 0, err
    assert out.splitlines() == [f"{name}  FINISHED  simulated-demo  sequence 12", text("hello", 12)]
    code, out, err = await cli(simulated_stack, "cancel", name)
    assert (code, out) == (0, "FINISHED\n"), err
    code, out, err = await cli(simulated_stack, "trace", name)
    assert code == 0, err
    assert "SubmitGeneration" in out


async def test_the_command_line_chats(simulated_stack: LocalStack) -> None:
    code, out, err = await cli(simulated_stack, "chat", "--max-tokens", "5", stdin="hello\nand now?\n")
    assert code == 0, err
    assert len(out.splitlines()) == 2


async def test_the_command_line_tells_errors(simulated_stack: LocalStack) -> None:
    code, _, err = await cli(simulated_stack, "generate", "--temperature", "9", "hello")
    assert code == 1
    assert "InvalidRequestError: spec.sampling_params.temperature: is 9; must be from 0 to 2" in err
    code, _, err = await cli(simulated_stack, "get", "nothing")
    assert code == 1
    assert "GenerationNotFoundError" in err


@pytest.mark.parametrize("name", EXAMPLES)
async def test_every_example_runs(simulated_stack: LocalStack, name: str) -> None:
    python = str(local_stack.ROOT / ".venv/bin/python")
    code, out, err = await run(python, "-m", f"tokenrelay.client.examples.{name}", ",".join(simulated_stack.targets))
    assert code == 0, err
    assert out.strip()


async def test_down_leaves_nothing_behind(tmp_path: Path) -> None:
    stack = local_stack.new(tmp_path, ENGINE="simulated")
    assert stack.command("up").returncode == 0
    pids = [status.pid for status in stack.supervisor.statuses()]
    assert stack.command("down").returncode == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert stack.command("status").returncode == 1


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


SLEEPER = Process("sleeper", ["sleep", "infinity"], (), 10)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """One that runs a process that sleeps, in a folder whose path is too long for a socket."""
    supervisor = Supervisor(tmp_path / ("long" * 30))
    supervisor.start([SLEEPER])
    yield supervisor
    supervisor.stop()


async def test_the_state_folder_s_path_may_be_long(supervisor: Supervisor) -> None:
    (sleeper,) = supervisor.statuses()
    pid = supervisor.pid()
    assert pid is not None
    supervisor.stop()
    assert not is_alive(sleeper.pid)
    assert not supervisor.is_running()
    await eventually(lambda: not is_alive(pid), "supervisord has ended")


async def test_a_socket_where_others_may_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = supervision._socket_folder(tmp_path)
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="must be a folder that is ours alone"):
        Supervisor(tmp_path).start([SLEEPER])
    assert Supervisor(tmp_path).pid() is None


async def test_a_stale_pid_file_ends_no_stranger(tmp_path: Path) -> None:
    pid_file = tmp_path / "supervisord.pid"
    stranger = await asyncio.create_subprocess_exec("sleep", "infinity")
    pid_file.write_text(f"{stranger.pid}\n")
    await asyncio.to_thread(Supervisor(tmp_path).stop)
    assert is_alive(stranger.pid)
    assert not pid_file.exists()
    stranger.kill()
    await stranger.wait()


async def test_a_second_stop_waits_for_the_end_too(tmp_path: Path) -> None:
    """While supervisord shuts down, it answers no question any more."""
    os.mkfifo(tmp_path / "release")
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import pathlib, signal, sys\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit((folder / 'release').read_text()))\n"
        "(folder / 'ready').touch()\n"
        "signal.pause()\n"
    )
    supervisor = Supervisor(tmp_path)
    supervisor.start([Process("stubborn", [sys.executable, str(script)], (), 10)])
    await eventually((tmp_path / "ready").exists, "the process would not be stopped at once")
    pid = supervisor.pid()
    assert pid is not None
    first = asyncio.create_task(asyncio.to_thread(supervisor.stop))
    await eventually(lambda: not supervisor.is_running(), "it shuts down")
    assert supervisor.pid() == pid
    second = asyncio.create_task(asyncio.to_thread(supervisor.stop))
    await asyncio.to_thread((tmp_path / "release").write_text, "")
    await asyncio.gather(first, second)
    assert supervisor.pid() is None
    await eventually(lambda: not is_alive(pid), "supervisord has ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_demo_that_is_ended_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    stack = local_stack.new(tmp_path, ENGINE="simulated")
    supervisor = Supervisor(tmp_path / "demo")
    command = (sys.executable, "-m", "deploy.local", "demo")
    demo = await asyncio.create_subprocess_exec(*command, env=stack.environment, cwd=local_stack.ROOT)
    try:
        await eventually(lambda: listens(stack.settings.port), "its gateway listens")
        pids = [status.pid for status in supervisor.statuses() if status.pid]
        demo.send_signal(number)
        assert await demo.wait() == 130
        assert pids
        assert not any(is_alive(pid) for pid in pids)
        assert supervisor.pid() is None
    finally:
        supervisor.stop()


async def test_a_demo_first_stops_what_a_killed_one_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_folder.make_anew(tmp_path / "demo")
    left = Supervisor(tmp_path / "demo")
    left.start([SLEEPER])
    (sleeper,) = left.statuses()
    found: list[bool] = []

    def up(settings: StackSettings) -> int:
        found.append(is_alive(sleeper.pid))
        return 1

    monkeypatch.setattr(commands, "up", up)
    try:
        commands.demo(StackSettings(state=tmp_path, port=free_ports()))
    finally:
        left.stop()
    assert found == [False]
