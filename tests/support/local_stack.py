"""The stack as `make up` runs it: real processes under the supervisor, in a folder and on ports of its own."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.processes.ports import free_ports
from deploy.local import plan
from deploy.local.machine import Machine
from deploy.local.settings import PREFIX, StackSettings
from deploy.local.supervision import Supervisor

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class LocalStack:
    settings: StackSettings
    environment: dict[str, str]

    @property
    def targets(self) -> list[str]:
        return plan.gateway_targets(self.settings).split(",")

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.settings.state)

    def metrics_port(self, name: str) -> int:
        (process,) = [one for one in plan.processes(self.settings, Machine.this()) if one.name == name]
        return process.ports[-1]

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        """Runs `make up` and the like, without make."""
        command = [sys.executable, "-m", "deploy.local", name]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)

    def pid(self, name: str) -> int:
        (status,) = [one for one in self.supervisor.statuses() if one.name == name]
        return status.pid

    def kill(self, name: str, number: int) -> int:
        """Sends a signal to a process of the stack; returns its id."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def log(self, name: str) -> str:
        return self.supervisor.log_file(name).read_text(errors="replace")


def new(state: Path, **settings: str) -> LocalStack:
    """Returns a stack of a test's own.

    Args:
        state: its folder.
        settings: variables as on make's command line, without their prefix.
    """
    values = {"STATE": str(state), "PORT": str(free_ports()), **settings}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "OTEL_"))}
    environment = {**inherited, **{PREFIX + name: value for name, value in values.items()}}
    stack_settings = StackSettings(**{name.lower(): value for name, value in values.items()})
    return LocalStack(stack_settings, environment)


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs make as a user would, even if these tests were started by make themselves."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", *arguments, *(f"{name}={value}" for name, value in variables.items())]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


async def run(*command: str, environment: dict[str, str] | None = None, stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    return process.returncode or 0, out.decode(), err.decode()
