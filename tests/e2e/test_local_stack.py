"""`make up` and what belongs to it, with the simulated engine."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from clients import AsyncClient
from deploy.local import plan
from engine_service.engines.simulation import expected_tokens, text_of
from tests.integration.conftest import spec
from tests.support import local_stack
from tests.support.local_stack import LocalStack, run
from tests.support.waiting import eventually

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
    environment = {**other.environment, "PORT": str(simulated_stack.settings.port)}
    refused = LocalStack(other.settings, environment).command("up")
    assert refused.returncode == 1
    assert f"port {simulated_stack.settings.port + 60} is in use; choose another with PORT=" in refused.stdout


async def test_a_wrong_setting_names_its_variable(tmp_path: Path) -> None:
    stack = local_stack.new(tmp_path, ENGINE="simulated")
    refused = LocalStack(stack.settings, {**stack.environment, "WORKERS": "0"}).command("up")
    assert refused.returncode == 2
    assert "WORKERS: " in refused.stdout


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
    code, out, err = await run(python, "-m", f"clients.examples.{name}", ",".join(simulated_stack.targets))
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
