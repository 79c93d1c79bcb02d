"""Envoy as a child process: it dies with this one, however that dies, and its log lines are ours."""

import asyncio
import math
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from tokenrelay.parent_death import die_with

log = structlog.get_logger(__name__)

LOG_FORMAT = "%l\t%n\t%v"  # level, component, text
FLUSH_MILLISECONDS = 20  # how long a log line, also one that tells who has left, may stay in Envoy
LINE = re.compile(r"(\w+)\t(\w+)\t(.*)")
LEVELS = {"trace": "debug", "debug": "debug", "info": "info", "warning": "warning", "error": "error", "critical": "error"}
DRAIN_MARGIN_SECONDS = 60  # for what comes after the drain itself
END_SECONDS = 5.0  # for Envoy to end after a SIGTERM
READ_BYTES = 65_536


class EnvoyProcess:
    """One Envoy, started.

    Args:
        binary: Envoy's.
        configuration: the file.
        environment: Envoy's variables.
        inherited: file descriptors that Envoy keeps, under the same numbers.
        drain_seconds: how long a drain may last; so long Envoy goes on listening.
    """

    def __init__(
        self,
        *,
        binary: Path,
        configuration: Path,
        environment: Mapping[str, str],
        inherited: Sequence[int],
        drain_seconds: float,
    ) -> None:
        self._log_end, envoys_end = os.pipe()
        command = [
            *(str(binary), "--config-path", str(configuration)),
            *("--concurrency", "1"),  # one thread for connections; the application has another one
            "--disable-hot-restart",
            # The process ends before Envoy would close its port, so that whoever calls until then is answered.
            *("--drain-strategy", "immediate", "--drain-time-s", str(math.ceil(drain_seconds) + DRAIN_MARGIN_SECONDS)),
            *("--log-level", "warning", "--log-format", LOG_FORMAT, "--log-path", f"/proc/self/fd/{envoys_end}"),
            *("--file-flush-interval-msec", str(FLUSH_MILLISECONDS)),
        ]
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[*inherited, envoys_end],
                start_new_session=True,  # a Ctrl-C in the terminal is for this process, which then has Envoy drain
                preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509  # it only calls the kernel
            )
        finally:
            os.close(envoys_end)
        self._rest = b""
        self.ended = asyncio.Event()
        # It becomes readable when the process ends, so that nobody has to wait for it on a thread.
        self._pidfd = os.pidfd_open(self._process.pid)
        os.set_blocking(self._log_end, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, self._note_end)
        loop.add_reader(self._log_end, self._read_log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def how_it_ended(self) -> str:
        """Its exit status or signal, for a log line."""
        status = self._process.returncode
        return f"signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"status {status}"

    async def stop(self) -> None:
        """Ends Envoy, by force if it does not end by itself, and closes what belongs to it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.ended.is_set():
                break
            self._process.send_signal(number)
            try:
                await asyncio.wait_for(self.ended.wait(), END_SECONDS)
            except TimeoutError:
                log.warning("envoy does not end", after=number.name)
        self._read_log()
        asyncio.get_running_loop().remove_reader(self._log_end)
        os.close(self._log_end)

    def _note_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self.ended.set()

    def _read_log(self) -> None:
        try:
            chunk = os.read(self._log_end, READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._log_end)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            _log_line(line.decode(errors="replace"))


def _log_line(line: str) -> None:
    found = LINE.fullmatch(line)
    if found is None:
        log.warning("envoy", text=line)  # a further line of a text of several
    else:
        getattr(log, LEVELS.get(found[1], "warning"))("envoy", component=found[2], text=found[3])
