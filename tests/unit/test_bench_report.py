"""The load generator's results, options, and what it reads of the serving side."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import typer

from bench.load.plan import OfferedLoad
from bench.load.workload import Workload
from bench.results import figures, machine, plots, saturation
from bench.results.figures import GoodputLimits, Point, Served
from bench.results.report import Report
from bench.run import command, observer
from bench.run.settings import BenchSettings
from bench.settings.options import read
from tests.unit.test_bench_figures import sample

PNG = b"\x89PNG\r\n\x1a\n"
VARIABLES = [name.upper() for name in BenchSettings.model_fields]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def point(concurrency: int, input_tokens: int = 8, **served: float) -> Point:
    samples = [sample(hops={"decode": 5.0, "relay": 1.0}) for _ in range(concurrency)]
    load = OfferedLoad(Workload(input_tokens, 3), concurrency=concurrency, rounds=1)
    told = Served({"gateway": 0.1}, {"gateway": 2**20}, **served)
    return figures.point(load, samples, GoodputLimits(100, 10), [0.01], told)


def report(points: list[Point], engine: str = "simulated") -> Report:
    return Report(f"{engine} engine", engine, "make bench", "now", {}, machine.describe(), points, 256, saturation.find(points))


def test_results_hold_everything_as_json_and_as_tables(tmp_path: Path) -> None:
    points = [point(1), replace(point(4), refusals={"QUEUE_FULL": 2}, client_is_the_limit=True)]
    made = report(points)
    made.write(tmp_path)
    read_again = json.loads((tmp_path / "results.json").read_text())
    assert read_again == json.loads(json.dumps(asdict(made)))
    assert {"cores", "cpu", "memory_gib", "versions", "revision"} <= read_again["machine"].keys()
    text = (tmp_path / "results.md").read_text()
    assert "2 of 4 requests at concurrency 4 got no whole answer: QUEUE_FULL" in text
    assert "the client was the limit at concurrency 4" in text
    assert "simulated: it computes no model" in text
    assert "not available" in text
    assert "no GPU" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5 * (2 + len(points))
    for heading, *rest in (rows[start : start + 4] for start in range(0, len(rows), 4)):
        assert {row.count("|") for row in rest} == {heading.count("|")}


def test_there_are_plots_of_what_there_is_to_plot_and_each_says_that_an_engine_is_simulated(tmp_path: Path) -> None:
    drawn = plots.draw(report([point(1, 8, kv_cache_share=0.5), point(1, 16, kv_cache_share=0.1)]), tmp_path)
    assert {path.stem for path in drawn} == {"throughput", "latency", "hops", "memory", "prompt-length"}
    for path in drawn:
        content = path.read_bytes()
        assert content.startswith(PNG) if path.suffix == ".png" else b"simulated" in content, path
    assert plots.draw(report([replace(point(1), answered=0)]), tmp_path) == []


def test_options_are_stronger_than_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRELAY_BENCH_CONCURRENCY", "16, 1,4,4")
    monkeypatch.setenv("TOKENRELAY_BENCH_ROUNDS", "")
    monkeypatch.setenv("SEED", "another project's")
    settings = read(BenchSettings, {"input_tokens": "7", "rates": None})
    assert settings.concurrency == (1, 4, 16)
    assert settings.input_tokens == (7,)
    assert settings.rounds == 8
    assert settings.rates == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONCURRENCY", "1,none"),
        ("CONCURRENCY", ","),
        ("RATES", "0"),
        ("SHARED", "1.5"),
        ("ENGINE", "steam"),
        ("TARGET", "nowhere"),
        ("OUTPUT_TOKENS", "-1"),
        ("PROCESSES", "0"),
    ],
)
def test_a_wrong_value_is_refused_by_its_variables_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"TOKENRELAY_BENCH_{variable}", value)
    with pytest.raises(typer.Exit) as ended:
        read(BenchSettings, {})
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith(f"TOKENRELAY_BENCH_{variable}: ")


def test_the_command_in_the_results_gives_the_same_settings() -> None:
    settings = BenchSettings(concurrency=(1, 8), shared=0.25, model="a b", target=("h:1", "i:2"))
    text = command.command(settings)
    assert text == "make bench TARGET=h:1,i:2 MODEL='a b' CONCURRENCY=1,8 SHARED=0.25"


def test_metrics_of_vllm_are_found() -> None:
    text = (
        "# HELP vllm:kv_cache_usage_perc KV-cache usage.\n# TYPE vllm:kv_cache_usage_perc gauge\n"
        'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25\n'
        "# TYPE vllm:prefix_cache_hits counter\n"
        'vllm:prefix_cache_hits_total{engine="0"} 30.0\nvllm:prefix_cache_hits_created{engine="0"} 1.7e9\n'
        "# TYPE other gauge\nother 1.0\n"
    )
    assert list(observer.values(text)) == [(observer.KV_CACHE_USAGE, 0.25), (observer.PREFIX_HITS, 30.0)]


def test_gpu_memory_is_added_up() -> None:
    assert observer.gpu_lines("100, 1000\n200, 1000\n") == (300.0, 2000.0)
    assert observer.gpu_lines("[N/A], [N/A]\n") is None
    assert observer.gpu_lines("") is None
