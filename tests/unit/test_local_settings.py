"""What the local stack takes from its environment and from make's command line, and what of it is shown."""

import os
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.compare.settings import ComparisonSettings
from bench.run.settings import BenchSettings
from deploy.local.settings import ROOT, CommandSettings, StackSettings, without_password

FOREIGN = {"REDIS_URL": "redis://production:6379/0", "PORT": "8080", "MODEL": "theirs", "STATE": "/srv", "FOLLOW": "1"}
SHOW = "include Makefile\nshow:\n\t@env\n"


def exported_by_make(tmp_path: Path, environment: dict[str, str], *arguments: str) -> dict[str, str]:
    """Returns the variables with our prefix that make gives a command."""
    makefile = tmp_path / "show.mk"
    makefile.write_text(SHOW)
    command = ["make", "--silent", "-f", str(makefile), "show", *arguments]
    inherited = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run(command, cwd=ROOT, env=inherited, capture_output=True, text=True, check=True)
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in pairs if name.startswith("TOKENRELAY_")}


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that other projects export."""
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("foreign")
def test_other_projects_variables_reach_no_command(tmp_path: Path) -> None:
    assert CommandSettings() == CommandSettings.model_construct()
    assert BenchSettings().redis_url is None
    assert BenchSettings().model is None
    assert ComparisonSettings().model is None
    assert exported_by_make(tmp_path, FOREIGN) == {}


def test_what_stands_on_make_s_command_line_counts(tmp_path: Path) -> None:
    awkward = "--one 'two three' %x #4 \"5\" \\6"
    exported = exported_by_make(tmp_path, FOREIGN, "PORT=6000", f"VLLM_ARGS={awkward}", "CONCURRENCY=1,16")
    assert exported == {
        "TOKENRELAY_PORT": "6000",
        "TOKENRELAY_VLLM_ARGS": awkward,
        "TOKENRELAY_BENCH_VLLM_ARGS": awkward,
        "TOKENRELAY_BENCH_CONCURRENCY": "1,16",
    }


@pytest.mark.parametrize("kind", [CommandSettings, BenchSettings, ComparisonSettings])
def test_every_setting_can_stand_on_make_s_command_line(
    kind: type[CommandSettings | BenchSettings | ComparisonSettings], tmp_path: Path
) -> None:
    names = [name.upper() for name in kind.model_fields]
    exported = exported_by_make(tmp_path, {}, *(f"{name}=1" for name in names))
    assert {f"{kind.model_config['env_prefix']}{name}" for name in names} <= exported.keys()


@pytest.mark.usefixtures("foreign")
def test_a_prefixed_variable_counts_for_commands_and_for_no_stack_of_a_drill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRELAY_REDIS_URL", "redis://here:1/0")
    assert CommandSettings().redis_url == "redis://here:1/0"
    assert StackSettings().redis_url is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@h:1/0", "redis://***@h:1/0"),
        ("rediss://user:se@cret@h/0?ssl_cert_reqs=none", "rediss://***@h/0?ssl_cert_reqs=none"),
        ("rediss://h:1/0?ssl_password=secret&db=1", "rediss://h:1/0?ssl_password=***&db=1"),
        ("unix:///run/redis.sock?username=me&password=secret&db=1", "unix:///run/redis.sock?username=***&password=***&db=1"),
    ],
)
def test_a_password_is_not_shown_and_not_written_down(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert StackSettings(redis_url=url).model_dump(mode="json")["redis_url"] == shown
    assert BenchSettings(redis_url=url).model_dump(mode="json")["redis_url"] == shown
    assert BenchSettings(redis_url=url).model_dump()["redis_url"] == shown


@pytest.mark.parametrize("url", ["http://h", "redis://", "redis://h:99999", "h:6379", "unix://"])
def test_what_is_no_address_of_a_redis_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        StackSettings(redis_url=url)


@pytest.mark.parametrize("password", ["s3cret/w", "w\u2100s3cret", "w[s3cret]w", "6?s3cret"])
def test_a_refusal_repeats_no_part_of_a_password(password: str) -> None:
    with pytest.raises(ValidationError) as caught:
        StackSettings(redis_url=f"redis://user:{password}@h:1")
    assert all("s3cret" not in problem["msg"] for problem in caught.value.errors())


def test_a_relative_state_folder_is_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StackSettings(state=Path("here")).state == tmp_path / "here"
