"""The stack as real processes that the harness starts, kills, pauses and starts again."""

import asyncio
import os
import signal
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from bench.processes.ports import free_ports
from deploy.local import plan
from deploy.local.machine import Machine
from deploy.local.settings import StackSettings
from drills import family
from drills.history import History
from drills.waiting import eventually
from tokenrelay.client import AsyncClient
from tokenrelay.errors import TokenrelayError

START_SECONDS = 300.0  # two real engines load for a while on few cores
END_SECONDS = 60.0  # for a gateway without its Envoy
RESTART_SECONDS = 0.2  # between a process' death and its next start, unless the harness holds it


@dataclass
class Changes:
    """What is different from the stack of `make up` for one process: its environment, and what its command is wrapped in."""

    environment: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    command: Sequence[str] | None = None


class Member:
    """One process of the stack, started again whenever it ends, as a supervisor would."""

    def __init__(self, process: plan.Process, changes: Changes, folder: Path, history: History) -> None:
        self.name = process.name
        self.process = process
        self.changes = changes
        self._folder = folder
        self._history = history
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._ended = asyncio.Event()
        self._wanted_end = False
        self._child: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    @property
    def envoy(self) -> int | None:
        """The process id of the Envoy that it has started; None if there is none."""
        return None if self.pid is None else family.envoy_below(self.pid)

    @property
    def log_file(self) -> Path:
        return self._folder / f"{self.name}.log"

    def start(self) -> None:
        """Starts it, and again whenever it ends."""
        self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            await self._may_run.wait()
            self._wanted_end = False
            await self._run_once()
            self._ended.set()
            await asyncio.sleep(RESTART_SECONDS)

    async def _run_once(self) -> None:
        changes = self.changes
        command = [*changes.prefix, *(changes.command or self.process.command)]
        mark = uuid.uuid4().hex
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **self.process.environment}
        environment |= {**changes.environment, family.MARK: mark}
        with self.log_file.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *command, env=environment, cwd=plan.working_directory(), stdout=log, stderr=log
            )
        self._ended.clear()
        child = self._child
        try:
            status = await child.wait()
        except asyncio.CancelledError:
            # Also what the harness has paused must end.
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
            raise
        left = await family.left_behind(mark)
        self._history.note("exit", process=self.name, pid=child.pid, status=status, wanted=self._wanted_end, left=left)

    def signal(self, number: int) -> bool:
        """Sends a signal, and tells whether the process was there to get it."""
        pid = self.pid
        if pid is None or self._child is None:
            return False
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._wanted_end = True
        self._child.send_signal(number)
        return True

    async def kill(self, *, hold: bool = False) -> bool:
        """Kill -9; returns once it is dead. Held, it is not started again before release."""
        if hold:
            self._may_run.clear()
        if not self.signal(signal.SIGKILL):
            return False
        await self._ended.wait()
        return True

    async def kill_envoy(self) -> int | None:
        """Kill -9 of the Envoy that it has started; returns its own exit status once it has ended for that."""
        envoy, child = self.envoy, self._child
        if envoy is None or child is None:
            return None
        self._wanted_end = True
        os.kill(envoy, signal.SIGKILL)
        await asyncio.wait_for(self._ended.wait(), END_SECONDS)
        return child.returncode

    async def terminate(self, *, hold: bool = False) -> None:
        """SIGTERM; returns once it has ended by itself. Held, it is not started again before release."""
        if hold:
            self._may_run.clear()
        if self.signal(signal.SIGTERM):
            await self._ended.wait()

    def release(self) -> None:
        """Lets a held process start again."""
        self._may_run.set()

    async def close(self) -> None:
        """Kill -9, for good."""
        self._wanted_end = True
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping


class Cluster:
    """All processes of a stack, in a folder and on ports of its own.

    Attributes:
        primary: which member is the Redis that takes writes.

    Args:
        settings: as for `make up`; STATE and PORT are the cluster's own.
        common: variables for all of our own processes.
        changes: what is different for single processes, by name.
    """

    def __init__(
        self,
        folder: Path,
        history: History,
        common: Mapping[str, str],
        changes: Mapping[str, Changes] | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.settings = StackSettings(**{"state": folder, "port": free_ports(), **settings})
        self.history = history
        self.members: dict[str, Member] = {}
        self.primary = "redis"
        for process in plan.processes(self.settings, Machine.this()):
            if process.folder is not None:
                process.folder.mkdir(parents=True, exist_ok=True)
            if process.name == "traces":
                continue
            changed = (changes or {}).get(process.name, Changes())
            without_tracing = {name: value for name, value in process.environment.items() if not name.startswith("OTEL_")}
            if process.name != "redis":
                without_tracing.update(common)
            process.environment.clear()
            process.environment.update(without_tracing)
            self.members[process.name] = Member(process, changed, folder, history)

    @property
    def targets(self) -> list[str]:
        """The gateways' addresses."""
        return plan.gateway_targets(self.settings).split(",")

    @property
    def redis_port(self) -> int:
        """Where the Redis listens that takes writes, past all proxies."""
        return self.members[self.primary].process.ports[0]

    def add(self, process: plan.Process, changes: Changes | None = None) -> Member:
        """Starts a process that no stack of `make up` has; returns it."""
        member = self.members[process.name] = Member(process, changes or Changes(), self.folder, self.history)
        member.start()
        return member

    def metrics_port(self, name: str) -> int:
        return self.members[name].process.ports[-1]

    def named(self, kind: str) -> list[Member]:
        """Returns the members of a kind: redis, engine, worker, gateway."""
        return [member for member in self.members.values() if member.name.partition("-")[0] == kind]

    def start(self, *, only: Sequence[str] | None = None) -> None:
        """Starts all, or some by name."""
        for member in self.members.values():
            if only is None or member.name in only:
                member.start()

    async def wait_until_served(self) -> None:
        """Returns once every gateway knows of every worker."""
        for target in self.targets:
            async with AsyncClient(target) as client:

                async def served(client: AsyncClient = client) -> bool:
                    with suppress(TokenrelayError, grpc.aio.AioRpcError):
                        return sum(model.workers for model in await client.models()) >= self.settings.workers
                    return False

                await eventually(served, f"all workers serve; see the logs in {self.folder}", START_SECONDS)

    async def close(self) -> None:
        """Ends all that run."""
        await asyncio.gather(*(member.close() for member in self.members.values()))
