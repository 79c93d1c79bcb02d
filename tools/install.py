"""Installs the project into .venv from the pinned locks; runs on the standard library alone.

Usage: python3 tools/install.py [--dev] [--bench] [--engine vllm|simulated] [--accelerator cpu|gpu]

The simulated engine needs neither vLLM nor PyTorch, so for it alone, without --dev and --bench, they are left out.
The CPU build of PyTorch is on no default index. It is taken from pip's configured wheel folder if that has it,
else from PyTorch's own CPU index, which uv knows by the name `cpu`.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
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
ENGINES = ("vllm", "simulated")
FULL_LOCKS = ("cpu", "gpu")  # which hold all that the simulated engine needs, too


def main() -> int:
    """Installs what is missing; returns the exit status."""
    arguments = parse_arguments()
    if arguments.print_find_links:
        print(pip_setting("find-links"))
        return 0
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        print(f"Python 3.11 to 3.13 is needed; this is {sys.version.split()[0]}. Set PYTHON= to another.", file=sys.stderr)
        return 1
    if arguments.engine not in ENGINES:
        print(f"TOKENRELAY_ENGINE: is {arguments.engine}; must be {' or '.join(ENGINES)}", file=sys.stderr)
        return 2
    accelerator = arguments.accelerator or detect_accelerator()
    for name in wanted_locks(accelerator, arguments.engine, dev=arguments.dev, bench=arguments.bench):
        install_once(name)
    compile_once()
    if arguments.dev:
        install_node_packages()
        for tool in ("debian_redis.py", "grpcurl.py"):
            subprocess.run([sys.executable, str(ROOT / "tools" / tool)], check=True)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="also what tests and lint need")
    parser.add_argument("--bench", action="store_true", help="also what benchmarks need; --dev has it too, to test them")
    engine = os.environ.get("TOKENRELAY_ENGINE") or ENGINES[0]
    parser.add_argument("--engine", default=engine, help=f"{' or '.join(ENGINES)}; default: TOKENRELAY_ENGINE, else vllm")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), help="default: gpu if nvidia-smi lists one, else cpu")
    parser.add_argument("--print-find-links", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def wanted_locks(accelerator: str, engine: str, *, dev: bool, bench: bool) -> list[str]:
    """Returns the names of the locks to install, in this order."""
    if engine == "simulated" and not dev and not bench:
        return [] if any(is_installed(name) for name in FULL_LOCKS) else ["simulated"]
    return [accelerator, *(["dev"] if dev else []), *(["bench"] if dev or bench else [])]


def detect_accelerator() -> str:
    """Returns "gpu" if the machine has an NVIDIA GPU, else "cpu"."""
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "gpu" if listing.returncode == 0 and "GPU" in listing.stdout else "cpu"


def is_installed(name: str) -> bool:
    """Tells whether a lock is installed as it is now."""
    stamp = VENV / f".installed-{name}"
    return stamp.exists() and stamp.read_text() == fingerprint(name)


def fingerprint(name: str) -> str:
    # The project's own packages are part of it too: an editable install lists them once.
    inputs = (LOCKS / f"{name}.txt", Path(__file__), ROOT / "pyproject.toml")
    return hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()


def install_once(name: str) -> None:
    """Installs a lock unless this very lock is installed already."""
    if is_installed(name):
        return
    prepare_environment()
    COMPILED.unlink(missing_ok=True)
    if name == "cpu":
        install_torch_cpu()
    show_progress(f"Installing requirements/{name}.txt", uv_command("--require-hashes", "-r", str(LOCKS / f"{name}.txt")))
    if name in (*FULL_LOCKS, "simulated"):
        show_progress("Installing Tokenrelay itself", uv_command("--no-build-isolation", "-e", str(ROOT)))
        share_protos()
    (VENV / f".installed-{name}").write_text(fingerprint(name))


def compile_once() -> None:
    """Compiles all packages to bytecode. vLLM starts three processes that import it; without, each takes twice as long."""
    if COMPILED.exists():
        return
    # Some packages carry templates that are no Python; compileall then exits with 1.
    command = [str(PYTHON), "-m", "compileall", "-q", "-j", "0", package_folder()]
    show_progress("Compiling packages to bytecode", command, may_fail=True)
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
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"uv=={UV_VERSION}"]
        show_progress("Installing uv", pip)


def install_torch_cpu() -> None:
    """Installs PyTorch's CPU build from pip's configured places, or else from PyTorch's own index."""
    if subprocess.run([*uv_command(TORCH_CPU), "--dry-run"], check=False, cwd=ROOT, capture_output=True).returncode == 0:
        show_progress("Installing PyTorch", uv_command(TORCH_CPU))
    else:
        show_progress("Installing PyTorch from its CPU index", uv_command("--torch-backend", "cpu", TORCH_CPU))


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
    """Installs buf, the JavaScript clients and a browser from package-lock.json, with the pinned Node.js of the dev lock."""
    stamp = ROOT / "node_modules" / ".installed"
    wanted = hashlib.sha256((ROOT / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    environment = dict(os.environ, PATH=f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}")
    npm = [str(VENV / "bin" / "npm"), "ci", "--no-audit", "--no-fund", "--loglevel=error"]
    show_progress("Installing package-lock.json into node_modules", npm, environment)
    show_progress("Unpacking the browser of the tests", [str(VENV / "bin" / "node"), str(ROOT / "tools" / "chromium.mjs")])
    stamp.write_text(wanted)


def show_progress(
    what: str, command: Sequence[str], environment: dict[str, str] | None = None, *, may_fail: bool = False
) -> None:
    """Runs a command and shows how it goes: on a terminal in one line that is rewritten, else in a line at its end.

    Args:
        what: the command's purpose, for the line.
        command: what is run; its own output is shown only if it fails.
        environment: its variables; None: those of this process.
        may_fail: whether its exit status does not matter.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    started = time.monotonic()
    output: list[str] = []
    fetched: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            output.append(line)
            word, _, name = line.strip().partition(" ")
            if word == "Downloading":  # uv says so of large packages, with their size
                fetched.append(name)

    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive():
        reader.join(0.2)
        if sys.stdout.isatty():
            detail = f", fetching {fetched[-1]}" if fetched else ""
            line = f"{what}: {time.monotonic() - started:.0f} s{detail}"
            print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
    assert process.stdout is not None
    process.stdout.close()
    failed = process.wait() != 0 and not may_fail
    start_of_line = "\r\033[K" if sys.stdout.isatty() else ""
    print(f"{start_of_line}{what}: {'failed' if failed else 'done'} after {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print("".join(output), end="", file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"Set-up failed: {' '.join(error.cmd)} exited {error.returncode}")
