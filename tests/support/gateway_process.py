"""A gateway as an operator runs it: a process of its own, with Envoy below it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from deploy.local.settings import ROOT
from gateway.settings import GatewaySettings
from tests.support.waiting import eventually
from tokenrelay import settings as all_settings
from tokenrelay.start_up import StartUpError

Line = MutableMapping[str, Any]  # a log line: its fields, "event" and "log_level" among them


class GatewayProcess:
    """`python -m gateway` on the Envoy edge.

    Args:
        settings: what it is told.
        log: the file that its lines go to, and Envoy's.
    """

    def __init__(self, settings: GatewaySettings, log: Path) -> None:
        self.settings = settings
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self._is_told_to_end = False

    async def start(self) -> "GatewayProcess":
        """Returns once it is ready, as GatewayApplication.start_up does.

        Raises:
            StartUpError: it cannot start.
        """
        environment = {
            **os.environ,
            **all_settings.environment(self.settings),
            "TOKENRELAY_LOG_FORMAT": "json",
            "TOKENRELAY_LOG_LEVEL": "debug",
            "TMPDIR": str(self.log.parent),  # a killed one leaves its folder
        }
        with self.log.open("wb") as file:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway"), env=environment, cwd=ROOT, stderr=file
            )
        await eventually(self._is_ready, "the gateway is ready")
        return self

    def _is_ready(self) -> bool:
        if self.has_ended:
            self._is_told_to_end = True  # which the test is told, so that nobody has to be told again
            raise StartUpError(f"the gateway has ended with {self.process.returncode}:\n{self.log.read_text()}")
        return any(line["event"] == "ready" and line["process"] == "gateway-envoy" for line in self.lines())

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The parent process."""
        assert self._process is not None
        return self._process

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, and nobody told it to."""
        return self.process.returncode is not None and not self._is_told_to_end

    def __repr__(self) -> str:
        return f"the gateway of {self.log.name}"

    @property
    def port(self) -> int | None:
        """The port that it listens on; None as long as it does not."""
        if self._process is None:
            return None
        return next((int(line["port"]) for line in self.lines() if line["event"] == "listening"), None)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def lines(self, start: int = 0) -> list[Line]:
        """Returns what it has logged from a place in the file on."""
        whole = self.log.read_bytes()[start:].rpartition(b"\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        return [{**line, "log_level": line["level"]} for line in lines]

    async def drain(self) -> None:
        """Returns once it has drained and ended, as it was told to."""
        self.process.send_signal(signal.SIGTERM)
        assert await self.end() == 0

    async def end(self) -> int:
        """Waits for the end of a gateway that was told to end, or that lacks what it needs; returns its exit status."""
        self._is_told_to_end = True
        return await self.process.wait()

    async def stop(self, *, abruptly: bool = False) -> None:
        """Kills it. Not abruptly: fails if it had ended before."""
        if self._process is None:
            return
        if self.has_ended and not abruptly:
            raise AssertionError(f"the gateway had ended with {self.process.returncode} before it was stopped")
        self._is_told_to_end = True
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def folder(self) -> Path:
        """Returns its private folder."""
        command = Path(f"/proc/{self.envoy()}/cmdline").read_text().split("\0")
        return Path(command[command.index("--config-path") + 1]).parent

    def envoy(self) -> int:
        """Returns Envoy's process id."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = [int(pid) for pid in children if "envoy" in Path(f"/proc/{pid}/comm").read_text()]
        return found
