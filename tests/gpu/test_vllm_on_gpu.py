"""What only a GPU can show: that vLLM runs on it, that takeovers are exact there, that a killed engine lets go of it."""

import signal
import subprocess
from typing import Any

import pytest

from tests.e2e.test_vllm import HELLO, STORY, alive, descendants
from tests.support.local_stack import LocalStack
from tests.support.waiting import eventually
from tokenrelay.client import AsyncClient

pytestmark = pytest.mark.gpu

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}


def processes_on_gpu() -> set[int]:
    command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {int(line) for line in listing.split()}


async def test_the_model_is_served_by_the_gpu_build(gpu_stack: LocalStack) -> None:
    async with AsyncClient(gpu_stack.targets) as client:
        (model,) = await client.models()
        answer = await client.generate(STORY, temperature=0, max_tokens=200)
    assert model.engine_version.startswith("vllm ")
    assert answer.usage.completion_tokens > 20
    assert processes_on_gpu(), "something computes on the GPU"


@pytest.mark.parametrize("prompt", [STORY, HELLO])
@pytest.mark.parametrize("victim", ["worker-1", "engine-1"])
async def test_a_takeover_is_exact(gpu_stack: LocalStack, prompt: str, victim: str) -> None:
    async with AsyncClient(gpu_stack.targets) as client:
        undisturbed = (await client.generate(prompt, **GREEDY)).choices[0]
        ids: list[int] = []
        text = ""
        async with client.stream(prompt, **GREEDY) as stream:
            async for delta in stream:
                if not ids:
                    gpu_stack.kill(victim, signal.SIGKILL)
                ids += delta.token_ids
                text += delta.text
    assert (ids, text) == (list(undisturbed.token_ids), undisturbed.text)
    assert stream.finished is not None
    assert stream.finished.exact


async def test_a_killed_engine_lets_go_of_the_gpu(gpu_stack: LocalStack) -> None:
    async with AsyncClient(gpu_stack.targets) as client:
        await client.generate(STORY, temperature=0, max_tokens=1)
        children = set(descendants(gpu_stack.pid("engine-1")))
        assert children
        gpu_stack.kill("engine-1", signal.SIGKILL)
        await eventually(lambda: not any(map(alive, children)), "vLLM's processes have died with the service")
        await client.generate(STORY, temperature=0, max_tokens=1)
