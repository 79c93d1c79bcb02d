"""The wheel and the sdist, and what a user has who installs the wheel alone."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.local_stack import ROOT, LocalStack
from tests.support.requirements import extras, pins
from tools.install import pip_setting

UV = ROOT / ".venv" / "bin" / "uv"
PACKAGES = {"tokenrelay", "gateway", "broker_worker", "engine_service"}
MOST_BYTES = 60 * 1024 * 1024


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both packages; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def bare(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    pinned = pins("core")
    constraints = folder / "constraints.txt"  # the versions that were installed before need no download
    constraints.write_text("".join(f"{one.name}{pinned[one.name].specifier}\n" for one in extras()[""]))
    options: list[str | Path] = ["--constraint", constraints]
    for option, setting in (("--find-links", "find-links"), ("--default-index", "index-url")):
        if pip_setting(setting):
            options += [option, pip_setting(setting)]
    run(UV, "pip", "install", "--quiet", "--python", folder / "venv" / "bin" / "python", *options, built.wheel)
    return folder / "venv"


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    done = attempt(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def attempt(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=110
    )


def sources() -> set[str]:
    """What belongs into a package: all modules, scripts and markers that are checked in, the client by its link."""
    listed = run("git", "ls-files", *PACKAGES, "clients").stdout.split()
    paths = {re.sub(r"^clients/", "tokenrelay/client/", path) for path in listed}
    return {path for path in paths if path.endswith((".py", ".pyi", ".lua", "py.typed"))}


def test_the_wheel_holds_our_packages_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == sources()
    assert any(name.endswith("licenses/LICENSE") for name in metadata)
    assert {name.partition("/")[0] for name in names - metadata} == PACKAGES


def test_the_sdist_holds_what_the_wheel_is_built_from(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    # Type stubs are in the wheel because they are beside their modules; all else is compared there.
    assert sources() | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_licence_is_named(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
        metadata = wheel.read(name).decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "License-File: LICENSE\n" in metadata


def test_a_bare_install_is_small(bare: Path) -> None:
    (site,) = bare.glob("lib/python*/site-packages")
    installed = {path.name.partition("-")[0].lower() for path in site.glob("*.dist-info")}
    assert installed == {"tokenrelay", "grpcio", "protobuf", "googleapis_common_protos", "typing_extensions"}
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < MOST_BYTES


@pytest.mark.parametrize("simulated_stack", ["grpcio"], indirect=True)
def test_the_readme_s_programs_run_with_a_bare_install(simulated_stack: LocalStack, bare: Path, tmp_path: Path) -> None:
    programs = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert any("from tokenrelay.client import Client" in program for program in programs)
    for program in programs:
        adapted = program.replace("localhost:50051", simulated_stack.targets[0])
        assert run(bare / "bin" / "python", "-c", adapted, cwd=tmp_path).stdout.strip()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("tokenrelay", "cli"),
        ("tokenrelay-dead-letters", "worker,cli"),
        ("tokenrelay-gateway", "gateway"),
        ("tokenrelay-worker", "worker"),
        ("tokenrelay-engine", "engine"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(bare: Path, tmp_path: Path, command: str, extra: str) -> None:
    done = attempt(bare / "bin" / command, "--help", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"\w+ is not installed; this command needs: pip install 'tokenrelay\[{extra}\]'\n", done.stderr)


def test_the_client_is_typed_and_clients_is_no_name_of_ours(bare: Path, tmp_path: Path) -> None:
    (site,) = bare.glob("lib/python*/site-packages")
    assert (site / "tokenrelay" / "py.typed").exists()
    assert attempt(bare / "bin" / "python", "-c", "import clients", cwd=tmp_path).returncode == 1
