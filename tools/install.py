"""Installs the project into .venv from the pinned locks; runs on the standard library alone.

Usage: python3 tools/install.py [--dev] [--bench] [--accelerator cpu|gpu]

The CPU build of PyTorch is on no default index. It is taken from pip's configured wheel folder if that has it,
else from PyTorch's own CPU index, which uv knows by the name `cpu`.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
COMPILED = VENV / ".compiled"
LOCKS = ROOT / "requirements"
UV_VERSION = "0.13.8"
TORCH_CPU = "torch==2.13.0+cpu"


def main() -> int:
    """Installs what is missing; returns the exit status."""
    arguments = parse_arguments()
    if arguments.print_find_links:
        print(pip_setting("find-links"))
        return 0
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(f"Python 3.11 to 3.13 is needed; this is {sys.version.split()[0]}. Set PYTHON= to another.", file=sys.stderr)
        return 1
    accelerator = arguments.accelerator or detect_accelerator()
    for name in wanted_locks(accelerator, dev=arguments.dev, bench=arguments.bench):
        install_once(LOCKS / f"{name}.txt", accelerator)
    compile_once()
    if arguments.dev:
        install_node_packages()
        run([sys.executable, str(ROOT / "tools" / "debian_redis.py")])
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="also what tests and lint need")
    parser.add_argument("--bench", action="store_true", help="also what benchmarks need; --dev has it too, to test them")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), help="default: gpu if nvidia-smi lists one, else cpu")
    parser.add_argument("--print-find-links", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def wanted_locks(accelerator: str, *, dev: bool, bench: bool) -> list[str]:
    """Returns the names of the locks to install, in this order."""
    return [accelerator, *(["dev"] if dev else []), *(["bench"] if dev or bench else [])]


def detect_accelerator() -> str:
    """Returns "gpu" if the machine has an NVIDIA GPU, else "cpu"."""
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "gpu" if listing.returncode == 0 and "GPU" in listing.stdout else "cpu"


def install_once(lock: Path, accelerator: str) -> None:
    """Installs a lock unless this very lock is installed already."""
    stamp = VENV / f".installed-{lock.stem}"
    # The project's own packages are part of it too: an editable install lists them once.
    inputs = (lock, Path(__file__), ROOT / "pyproject.toml")
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    prepare_environment()
    COMPILED.unlink(missing_ok=True)
    print(f"Installing {lock.relative_to(ROOT)} into .venv", flush=True)
    if lock.stem == "cpu":
        install_torch_cpu()
    uv_install("--require-hashes", "-r", str(lock))
    if lock.stem == accelerator:
        uv_install("--no-build-isolation", "-e", str(ROOT))
        share_protos()
    stamp.write_text(wanted)


def compile_once() -> None:
    """Compiles all packages to bytecode. vLLM starts three processes that import it; without, each takes twice as long."""
    if COMPILED.exists():
        return
    print("Compiling packages to bytecode", flush=True)
    # Some packages carry templates that are no Python; compileall then exits with 1.
    command = [str(PYTHON), "-m", "compileall", "-q", "-j", "0", package_folder()]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    COMPILED.touch()


def package_folder() -> str:
    return subprocess.check_output(
        [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()


def prepare_environment() -> None:
    """Makes .venv with the pinned uv in it. uv was chosen over pip for its speed: seconds instead of minutes."""
    if not PYTHON.exists():
        print("Creating .venv", flush=True)
        venv.create(VENV, with_pip=True)
    if not UV.exists() or UV_VERSION not in subprocess.check_output([str(UV), "--version"], text=True):
        run([str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"uv=={UV_VERSION}"])


def install_torch_cpu() -> None:
    if try_run(uv_command(TORCH_CPU)):
        return
    print("pip's configured places have no CPU build of PyTorch; taking it from PyTorch's CPU index", flush=True)
    run(uv_command("--torch-backend", "cpu", TORCH_CPU))


def uv_install(*arguments: str) -> None:
    run(uv_command(*arguments))


def uv_command(*arguments: str) -> list[str]:
    """Returns the install command. The locks are complete, so nothing is resolved: --no-deps."""
    command = [str(UV), "pip", "install", "--python", str(PYTHON), "--no-deps"]
    find_links = pip_setting("find-links")
    if find_links:
        command += ["--find-links", find_links]
    index = pip_setting("index-url")
    if index:
        command += ["--default-index", index]
    return [*command, *arguments]


def pip_setting(name: str) -> str:
    """Returns a setting of pip from its environment variable or configuration files, which uv does not read; "" if unset."""
    variable = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if variable:
        return variable
    pip = [str(PYTHON if PYTHON.exists() else sys.executable), "-m", "pip"]
    answer = subprocess.run([*pip, "config", "get", f"global.{name}"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def share_protos() -> None:
    """Puts google/rpc/status.proto, which the contract imports, where buf and protoc find it: .venv/share/protos."""
    target = VENV / "share" / "protos" / "google" / "rpc"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(package_folder()) / "google" / "rpc" / "status.proto", target)


def install_node_packages() -> None:
    """Installs buf and the JavaScript gRPC client from package-lock.json, with the pinned Node.js of the dev lock."""
    stamp = ROOT / "node_modules" / ".installed"
    wanted = hashlib.sha256((ROOT / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    environment = dict(os.environ, PATH=f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}")
    print("Installing package-lock.json into node_modules", flush=True)
    run([str(VENV / "bin" / "npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error"], environment)
    stamp.write_text(wanted)


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


def try_run(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"Set-up failed: {' '.join(error.cmd)} exited {error.returncode}")
