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

from deploy.local.plan import DRAIN_SECONDS, Process, working_directory

STOP_SECONDS = DRAIN_SECONDS + 10  # after which a stopping process is killed


class UnsafeFolderError(OSError):
    """Somebody else could write to the socket's folder. Its text is for the user."""


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
        self._state = state
        self._socket = _socket_folder(state) / "supervisor.sock"
        self._pid_file = state / "supervisord.pid"

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
        """
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        _check_is_ours(self._socket.parent)
        (self._state / "logs").mkdir(parents=True, exist_ok=True)
        configuration = self._state / "supervisord.conf"
        configuration.write_text(self._configuration(processes))
        subprocess.run([sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)], check=True)
        while not self.is_running():
            time.sleep(0.05)

    def statuses(self) -> list[Status]:
        """Returns how all processes do."""
        with self._calls() as supervisor:
            found = supervisor.getAllProcessInfo()
        return [Status(one["name"], one["statename"], one["pid"], one["now"] - one["start"]) for one in found]

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

    def _configuration(self, processes: Sequence[Process]) -> str:
        head = f"""\
[unix_http_server]
file={self._socket}

[supervisord]
logfile={self._state / "logs" / "supervisord.log"}
pidfile={self._pid_file}
directory={working_directory()}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{self._socket}
"""
        return head + "".join(self._program(process) for process in processes)

    def _program(self, process: Process) -> str:
        environment = ",".join(f'{name}="{_escape(value)}"' for name, value in process.environment.items())
        return f"""
[program:{process.name}]
command={" ".join(f'"{_escape(part)}"' for part in process.command)}
environment={environment}
priority={process.priority}
startsecs=1
startretries=1000000
autorestart=true
stopwaitsecs={STOP_SECONDS}
redirect_stderr=true
stdout_logfile={self.log_file(process.name)}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
"""


def _socket_folder(state: Path) -> Path:
    """Returns a folder with a short path: a socket's may have 107 bytes, and the state folder's may be longer than that."""
    name = hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tokenrelay-{os.getuid()}-{name}"


def _check_is_ours(folder: Path) -> None:
    """Raises OSError unless this is a folder, and nobody but us may write to it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UnsafeFolderError(f"{folder} must be a folder that is ours alone (mode 0700); remove it, or set TMPDIR")


def _escape(value: str) -> str:
    return value.replace("%", "%%").replace('"', '\\"')
