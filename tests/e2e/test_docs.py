"""Every command and every program in the documents is run, as it stands there, against a stack.

What `docker` does cannot be tried here; tests/unit/test_deployment.py checks its files.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.test_local_stack import stack_tracing
from tests.support import local_stack
from tests.support.local_stack import ROOT, LocalStack, make

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("models/*/*.md")),
]
DOCUMENTED_ADDRESS = "localhost:50051"
# Run by tests of their own, by make test itself, or not at all because they replace what is checked in.
# `make drill` takes a quarter of an hour; tests/e2e/test_drill.py runs one of its drills.
MAKE_TARGETS_RUN_ELSEWHERE = {
    "demo",
    "test",
    "lint",
    "up",
    "down",
    "status",
    "logs",
    "drill",
    "bench",
    "bench-compare",
    "bench-memory",
    "profile",
}
MAKE_TARGETS_NOT_RUN = {"model", "lock", "drill-long", "test-gpu", "generate", "reference", "help"} | {
    "setup",
    "setup-dev",
    "setup-bench",
}


pytestmark = pytest.mark.vllm


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text()
        for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            yield Block(str(document.relative_to(ROOT)), line, found[1], found[2])


def commands() -> list[tuple[Block, str]]:
    return [(block, line) for block in blocks() if block.language == "sh" for line in block.text.splitlines() if line]


def of_language(language: str) -> list[Block]:
    return [block for block in blocks() if block.language == language]


def run(stack: LocalStack, command: list[str], text: str = "") -> str:
    """Runs a program with the stack as if it were the documented one; returns what it prints."""
    environment = {
        **os.environ,
        **stack_tracing(stack),
        "TOKENRELAY_TARGETS": stack.targets[0],
        "PATH": f"{ROOT}/.venv/bin:{ROOT}/node_modules/.bin:{os.environ['PATH']}",
        "NODE_PATH": str(ROOT / "node_modules"),
    }
    done = subprocess.run(
        command, input=text, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command} {text}\n{done.stdout}{done.stderr}"
    return done.stdout


def adapted(stack: LocalStack, text: str) -> str:
    return text.replace(DOCUMENTED_ADDRESS, stack.targets[0])


def of_programs(*names: str) -> list[tuple[Block, str]]:
    return [(block, line) for block, line in commands() if program(line) in names]


def program(command: str) -> str:
    """What a command runs, after the variables that it sets."""
    return next(word for word in shlex.split(command) if "=" not in word)


def identify(value: object) -> str:
    return str(value) if isinstance(value, Block) else ""


@pytest.mark.parametrize(("block", "command"), of_programs("tokenrelay", "node_modules/.bin/buf", "grpcurl"), ids=identify)
def test_shell_commands_run(vllm_stack: LocalStack, block: Block, command: str) -> None:
    assert run(vllm_stack, ["sh", "-euc", adapted(vllm_stack, command)]).strip()


@pytest.mark.parametrize("block", of_language("python"), ids=identify)
def test_python_programs_run(vllm_stack: LocalStack, block: Block) -> None:
    assert run(vllm_stack, ["python", "-"], adapted(vllm_stack, block.text)).strip()


@pytest.mark.parametrize("block", of_language("js"), ids=identify)
def test_javascript_programs_run(vllm_stack: LocalStack, block: Block) -> None:
    assert run(vllm_stack, ["node", "-"], adapted(vllm_stack, block.text)).strip()


def test_every_command_is_run_by_a_test() -> None:
    """Those of tokenrelay-admin by tests/integration/test_admin_command.py."""
    tested = {"tokenrelay", "tokenrelay-admin", "node_modules/.bin/buf", "grpcurl", "make", "docker", "."}
    unknown = [f"{block}: {command}" for block, command in commands() if program(command) not in tested]
    assert not unknown
    assert {block.language for block in blocks()} <= {"sh", "python", "js", "mermaid"}


def test_every_make_target_in_the_documents_exists() -> None:
    help_text = make("help").stdout
    targets = {line.split()[0] for line in help_text.splitlines() if line.strip()}
    for document in DOCUMENTS:
        mentioned = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
        in_blocks = {line.split()[1] for block, line in commands() if line.startswith("make ")}
        assert mentioned <= targets, document
        assert in_blocks <= MAKE_TARGETS_RUN_ELSEWHERE
    assert targets <= MAKE_TARGETS_RUN_ELSEWHERE | MAKE_TARGETS_NOT_RUN | {"verify", "format", "clean"}


def test_links_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert not broken


def test_make_up_status_logs_and_down(tmp_path: Path) -> None:
    """The block of README, with the ports and the folder of a test."""
    (block,) = [block for block in of_language("sh") if block.text.startswith("make up")]
    stack = local_stack.new(tmp_path)
    outputs = {}
    try:
        for line in block.text.splitlines():
            words = shlex.split(line)[1:]
            done = make(*words, PORT=str(stack.settings.port), STATE=str(tmp_path))
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            outputs[words[0]] = done.stdout
    finally:
        stack.command("down")
    assert "Ready after" in outputs["up"]
    assert "worker-2" in outputs["status"]
    assert "gateway-2.log" in outputs["logs"]
    assert "Stopped." in outputs["down"]


def test_json_in_commands_is_json() -> None:
    for block, command in of_programs("grpcurl", "node_modules/.bin/buf"):
        words = shlex.split(command)
        if "-d" in words:
            assert json.loads(words[words.index("-d") + 1]), f"{block}: {command}"
