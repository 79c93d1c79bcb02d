"""A stack with vLLM on the machine's GPU; without one, every test here is skipped."""

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import started
from tests.support import local_stack
from tests.support.local_stack import LocalStack
from tools.install import detect_accelerator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if detect_accelerator() == "cpu":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="this machine has no GPU"))


@pytest.fixture(scope="session")
def gpu_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    yield from started(local_stack.new(tmp_path_factory.mktemp("gpu"), ENGINE="vllm", GATEWAYS="2"))
