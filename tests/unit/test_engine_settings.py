"""Settings that an engine cannot use: exit status 2, and one line that names the variable."""

import os
import subprocess
import sys
import warnings

import pytest

from engine_service import placement
from engine_service.settings import EngineSettings
from tests.support.local_stack import ROOT
from tokenrelay.start_up import SettingError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's and vLLM's own, when they are imported
    from engine_service.engines.vllm.engine_arguments import engine_arguments, load

DEMO = str(ROOT / "models/demo")


@pytest.mark.parametrize("arguments", ["--no-such-argument 5", "'unclosed", "--max-model-len many", "--kv-cache-dtype other"])
def test_arguments_that_vllm_does_not_take_are_named_in_one_line(arguments: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError) as caught:
        engine_arguments(EngineSettings(model=DEMO, vllm_args=arguments))
    assert str(caught.value).startswith("TOKENRELAY_VLLM_ARGS: vLLM does not take these arguments: ")
    assert "\n" not in str(caught.value)
    assert "usage" not in capfd.readouterr().err


@pytest.mark.parametrize(("model", "arguments"), [("models/no-such-model", ""), (DEMO, "--max-model-len 1000000")])
def test_what_vllm_cannot_be_configured_with_is_named_in_one_line(
    model: str, arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SettingError, match="TOKENRELAY_MODEL, TOKENRELAY_VLLM_ARGS: vLLM cannot use them: ") as caught:
        load(engine_arguments(EngineSettings(model=model, vllm_args=arguments)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cores", ["0-99999999999", "99999", "1-0"])
def test_cores_that_the_machine_does_not_have_are_named_before_anything_is_loaded(cores: str) -> None:
    with pytest.raises(SettingError, match="TOKENRELAY_ENGINE_CORE_CPUS: "):
        placement.check(cores)
    placement.check("0")


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_the_process_ends_with_status_2_and_without_a_traceback() -> None:
    settings = {"TOKENRELAY_MODEL": DEMO, "TOKENRELAY_PORT": "0", "TOKENRELAY_VLLM_ARGS": "--no-such-argument"}
    command = [sys.executable, "-m", "engine_service"]
    ended = subprocess.run(
        command, env={**os.environ, **settings}, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "TOKENRELAY_VLLM_ARGS: vLLM does not take these arguments" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
