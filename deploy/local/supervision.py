"""Runs the stack's processes under supervisord, which restarts what crashes; it needs neither root nor Docker."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from deploy.local import launch
from deploy.local.plan import DRAIN_SECONDS, Process, working_directory

STOP_SECONDS = DRAIN_SECONDS + 10  # after which a stopping process is killed
ANSWER_SECONDS = 60.0  # for supervisord's first answer, which comes at once on a machine that is not stuck

# Relative paths begin at the state folder, in which supervisord runs: it expands a percent sign in some of them twice.
CONFIGURATION = """\
[unix_http_server]
file=%(ENV_TOKENRELAY_STACK_SOCKET)s

[supervisord]
logfile=logs/supervisord.log
pidfile=supervisord.pid

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:{name}]
command=/bin/sh -c 'cd "$TOKENRELAY_STACK_ROOT" && exec "$TOKENRELAY_STACK_PYTHON" -m deploy.local.launch {name}'
priority={priority}
startsecs=1
startretries=1000000
autorestart=true
stopwaitsecs={seconds}
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
"""


class SupervisionError(OSError):
    """supervisord cannot be started or reached. Its text is for the user."""


class UnsafeFolderError(SupervisionError):
    """Somebody else could write to the socket's folder."""


@dataclass(frozen=True)
class Status:
    """How a process does."""

    name: str
    state: str
    pid: int
    since_seconds: int


class Supervisor:
    """One supervisord in a state folder."""

    def __init__(self, state: Path) -> None:
        self._state = state.absolute()
        self._socket = _socket_folder(state) / "supervisor.sock"
        self._pid_file = self._state / "supervisord.pid"
        self._launches = self._state / "processes.json"

    def log_file(self, name: str) -> Path:
        return self._state / "logs" / f"{name}.log"

    def is_running(self) -> bool:
        """Tells whether it answers."""
        try:
            with self._calls() as supervisor:
                supervisor.getState()
        except (OSError, Fault):
            return False
        return True

    def start(self, processes: Sequence[Process]) -> None:
        """Starts supervisord, and with it all processes.

        Raises:
            UnsafeFolderError: the socket's folder is there already and not ours alone.
            SupervisionError: supervisord does not start.
        """
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        _check_is_ours(self._socket.parent)
        for folder in (self._state / "logs", *(one.folder for one in processes if one.folder is not None)):
            folder.mkdir(parents=True, exist_ok=True)
        configuration = self._state / "supervisord.conf"
        configuration.write_text(_configuration(processes))
        launch.write(self._launches, processes)
        # The configuration has these by their variables: a path's own characters mean nothing there then.
        paths = {
            "TOKENRELAY_STACK_ROOT": str(working_directory()),
            "TOKENRELAY_STACK_SOCKET": str(self._socket),
            "TOKENRELAY_STACK_PYTHON": sys.executable,
            launch.VARIABLE: str(self._launches),
        }
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", configuration.name]
        environment = {**os.environ, **paths}  # noqa: TID251  # passed on as it is
        done = subprocess.run(command, cwd=self._state, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SupervisionError(f"supervisord does not start: {done.stderr.strip() or done.stdout.strip()}")
        give_up_at = time.monotonic() + ANSWER_SECONDS
        while not self.is_running():
            if time.monotonic() > give_up_at:
                raise SupervisionError(f"supervisord does not answer; its log is {self.log_file('supervisord')}")
            time.sleep(0.05)

    def statuses(self) -> list[Status]:
        """Returns how all processes do.

        Raises:
            SupervisionError: supervisord has ended, or is ending, as after `make down`.
        """
        try:
            with self._calls() as supervisor:
                found = supervisor.getAllProcessInfo()
        except (OSError, Fault) as error:
            raise SupervisionError("the stack is being stopped, or was stopped already") from error
        return [Status(one["name"], one["statename"], one["pid"], one["now"] - one["start"]) for one in found]

    def environment(self, name: str) -> dict[str, str]:
        """Returns the variables that a process of the running stack was started with."""
        return launch.environment(self._launches, name)

    def stop(self) -> None:
        """Stops all processes, the gateways first, then supervisord; returns when it has ended."""
        pid = self.pid()
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        while self._written_pid() == pid:  # removing the file is the last thing that supervisord does
            time.sleep(0.1)
        with suppress(OSError):
            self._launches.unlink()  # it may hold a password, and nobody needs it any more
        with suppress(OSError):
            self._socket.parent.rmdir()

    def pid(self) -> int | None:
        """Returns supervisord's process id, None if it does not run."""
        try:
            with self._calls() as supervisor:
                return int(supervisor.getPID())
        except Fault:  # it is shutting down and answers no question any more, but the file is still its own
            return self._written_pid()
        except OSError:  # nobody answers: the file, if there is one, names a dead process or a stranger's by now
            with suppress(OSError):
                self._pid_file.unlink()
            return None

    def _written_pid(self) -> int | None:
        try:
            pid = int(self._pid_file.read_text())
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid

    @contextmanager
    def _calls(self) -> Iterator[Any]:
        _check_is_ours(self._socket.parent)  # whoever else answered there could name any process to be ended
        with closing(SupervisorTransport(None, None, f"unix://{self._socket}")) as transport:
            yield ServerProxy("http://localhost", transport=transport).supervisor


def _configuration(processes: Sequence[Process]) -> str:
    """Returns supervisord's configuration. It holds nothing that a user chose, so nothing in it has to be escaped."""
    return CONFIGURATION + "".join(
        PROGRAM.format(name=process.name, priority=process.priority, seconds=STOP_SECONDS) for process in processes
    )


def _socket_folder(state: Path) -> Path:
    """Returns a folder with a short path: a socket's may have 107 bytes, and the state folder's may be longer than that."""
    name = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tokenrelay-{os.getuid()}-{name}"


def _check_is_ours(folder: Path) -> None:
    """Raises OSError unless this is a folder, and nobody but us may write to it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UnsafeFolderError(f"{folder} must be a folder that is ours alone (mode 0700); remove it, or set TMPDIR")
