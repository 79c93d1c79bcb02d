"""Whole stacks of real processes: one with the simulated engine, one with vLLM and the demo model."""

from collections.abc import Iterator

import pytest

from tests.conftest import EDGES
from tests.support import local_stack
from tests.support.local_stack import LocalStack


def started(stack: LocalStack) -> Iterator[LocalStack]:
    try:
        up = stack.command("up")
        assert up.returncode == 0, up.stdout + up.stderr
        yield stack
    finally:
        stack.command("down")


@pytest.fixture(scope="session", params=EDGES)
def simulated_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    state = tmp_path_factory.mktemp("simulated")
    yield from started(local_stack.new(state, ENGINE="simulated", GATEWAYS="2", WORKERS="2", EDGE=request.param))


@pytest.fixture(scope="session")
def vllm_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    # An engine argument of vLLM, as any other: the small model would fill its answers with white space.
    option = "--structured-outputs-config"
    arguments = f"{option}.backend=xgrammar {option}.disable_any_whitespace=true"
    state = tmp_path_factory.mktemp("vllm")
    yield from started(local_stack.new(state, ENGINE="vllm", GATEWAYS="2", VLLM_ARGS=arguments))
