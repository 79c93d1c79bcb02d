"""The comparison's figures, report and settings; what starts servers is in tests/e2e/test_bench_compare.py."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import typer

from bench.compare import choice, command, plot, ratios
from bench.compare.choice import BASELINE, NAMES, Setup, create
from bench.compare.client import LIMITS, POINTS, Task
from bench.compare.ratios import METRICS, SystemRun
from bench.compare.report import MAIN, TITLES, ComparisonReport, cell, table
from bench.compare.settings import ComparisonSettings
from bench.load.measuring import Sample
from bench.load.plan import OfferedLoad
from bench.load.workload import Workload
from bench.results import figures, machine
from bench.results.figures import Point, Served
from bench.settings.options import read
from bench.systems import vllm_rs_binary
from bench.systems.tokenrelay import Tokenrelay

OURS = "tokenrelay"
VARIABLES = [name.upper() for name in ComparisonSettings.model_fields]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def point(concurrency: int = 1, tokens_per_s: float = 100.0, first_ms: float = 10.0, engine_ms: float = 0.0) -> Point:
    """Two requests a user of four tokens each, with the throughput and the time to first token that are given."""
    seconds = 4 * 2 * concurrency / tokens_per_s
    chunks = [(first_ms / 1000, 2), (seconds, 2)]
    samples = [Sample(0.0, chunks, seconds, hops={"decode": engine_ms}) for _ in range(2 * concurrency)]
    load = OfferedLoad(Workload(8, 4), concurrency=concurrency, rounds=2)
    return figures.point(load, samples, LIMITS, [0.001], Served({"server": 0.002, "vllm": 0.1}))


def two_rounds() -> list[SystemRun]:
    return [
        SystemRun(OURS, 1, [point(tokens_per_s=90, first_ms=11, engine_ms=10.0)]),
        SystemRun(BASELINE, 1, [point(tokens_per_s=100, first_ms=10)]),
        SystemRun(BASELINE, 2, [point(tokens_per_s=200, first_ms=5)]),
        SystemRun(OURS, 2, [point(tokens_per_s=160, first_ms=8, engine_ms=10.0)]),
    ]


def report(runs: list[SystemRun], **missing: str) -> ComparisonReport:
    settings = ComparisonSettings().model_dump(mode="json")
    rows = ratios.rows(runs, BASELINE)
    return ComparisonReport("make bench-compare", "now", settings, "", machine.describe(), runs, rows, BASELINE, missing)


def test_ratios_are_of_the_same_round_and_medians_over_rounds() -> None:
    ours, baseline = ratios.rows(two_rounds(), BASELINE)
    throughput = ours.figures["tokens_per_s"]
    assert throughput.value.median == pytest.approx(125)
    assert throughput.ratio is not None
    assert (throughput.ratio.least, throughput.ratio.most) == pytest.approx((0.8, 0.9))
    assert throughput.ratio.median == pytest.approx(0.85), "the ratio of the medians were 0.83"
    first = ours.figures["ttft_ms_p50"].difference
    assert first is not None
    assert (first.median, first.least, first.most) == pytest.approx((2, 1, 3))
    assert baseline.figures["tokens_per_s"].ratio == ratios.Spread(1.0, 1.0, 1.0)


def test_a_round_without_the_baseline_has_no_ratio() -> None:
    runs = [run for run in two_rounds() if (run.system, run.round) != (BASELINE, 2)]
    ours = ratios.rows(runs, BASELINE)[0]
    assert ours.rounds == 2
    assert ours.figures["tokens_per_s"].ratio is not None
    assert ours.figures["tokens_per_s"].ratio.least == ours.figures["tokens_per_s"].ratio.most == pytest.approx(0.9)
    alone = ratios.rows([SystemRun(OURS, 1, [point()])], BASELINE)[0]
    assert alone.figures["tokens_per_s"].ratio is None


def test_only_who_tells_the_engine_s_time_has_an_overhead() -> None:
    ours, baseline = ratios.rows(two_rounds(), BASELINE)
    assert ours.figures["overhead_ms_p50"].value.most == pytest.approx(1000 * 8 / 90 - 10)
    assert ours.figures["overhead_ms_p50"].ratio is None
    assert "overhead_ms_p50" not in baseline.figures


def test_cpu_is_that_of_the_servers_and_the_client_but_not_of_vllm_s_own_processes() -> None:
    assert ratios.beside_engine(point()) == pytest.approx(1e6 * 0.003 / 8)
    assert ratios.of_servers(point()) == pytest.approx(1e6 * 0.002 / 8)


def test_what_our_processes_cost_together_is_set_in_relation_to_the_server_of_the_same_round() -> None:
    ours = {"gateway": 30.0, "worker": 20.0, "engine": 40.0, "redis": 10.0, "vllm": 500.0, "client": 50.0, "traces": 90.0}
    runs = [
        SystemRun(OURS, 1, [replace(point(), cpu_us_per_token=ours)]),
        SystemRun(BASELINE, 1, [replace(point(), cpu_us_per_token={"server": 80.0, "vllm": 500.0, "client": 40.0})]),
    ]
    row = ratios.rows(runs, BASELINE)[0]
    servers = row.figures["server_cpu_us_per_token"]
    assert (servers.value.median, servers.ratio) == (100.0, ratios.Spread(1.25, 1.25, 1.25))
    cost = report(runs).markdown().partition("## Cost")[2]
    assert "| 1 | Tokenrelay | 100.0 (1.25×) | 30.0 |" in cost


def test_without_vllm_s_server_the_first_system_is_what_others_are_set_in_relation_to() -> None:
    assert choice.baseline([OURS, "tokenrelay-traced"]) == OURS
    assert choice.baseline([OURS, BASELINE]) == BASELINE


def test_a_point_without_an_answer_is_no_zero_among_the_medians() -> None:
    refused = replace(point(), tokens_per_s=0.0, ttft_ms=figures.Quantiles(), refusals={"HTTP 503": 2})
    row = ratios.rows([SystemRun(OURS, 1, [refused]), SystemRun(OURS, 2, [point()])], BASELINE)[0]
    assert row.figures["tokens_per_s"].value.median == pytest.approx(100)
    assert row.refusals == {"HTTP 503": 2}


def test_cells_say_the_ratio_and_of_the_first_token_the_difference() -> None:
    ours, baseline = ratios.rows(two_rounds(), BASELINE)
    cells = {metric.name: cell(metric, ours.figures.get(metric.name)) for metric in METRICS}
    assert cells["tokens_per_s"] == "125 (0.85×, 0.80–0.90)"
    assert cells["ttft_ms_p50"] == "9.5 (1.35×, 1.10–1.60; +2.0)"
    assert cell(METRICS[0], baseline.figures["tokens_per_s"]) == "150"
    assert cell(METRICS[0], None) == "–"


def test_the_report_holds_everything_as_json_and_as_tables(tmp_path: Path) -> None:
    runs = [*two_rounds(), SystemRun("smg", 1, problem="its client ended with status 1")]
    runs[0] = replace(runs[0], points=[replace(runs[0].points[0], refusals={"UNAVAILABLE": 1}), point(64)])
    made = report(runs, **{"in-process": "vllm"})
    made.write(tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(json.dumps(asdict(made)))
    text = (tmp_path / "comparison.md").read_text()
    for said in (
        "## 1 stream\n",
        "## 64 streams\n",
        "AsyncLLM in the client is left out: not installed: vllm",
        "SMG before vLLM gRPC server gave nothing in round 1: its client ended with status 1",
        "Tokenrelay at 1: 1 of 4 requests got no whole answer: UNAVAILABLE",
        "--max-model-len 2048 --enforce-eager --dtype bfloat16",
    ):
        assert said in text
    for block in ("\n".join(line if line.startswith("|") else "" for line in text.splitlines())).split("\n\n"):
        assert len({line.count("|") for line in block.split("\n") if line}) <= 1, block


def test_the_plot_shows_each_system_s_throughput_and_ratio(tmp_path: Path) -> None:
    made = report(two_rounds())
    drawn = plot.draw(made, tmp_path)
    assert [path.name for path in drawn] == ["comparison.png", "comparison.svg"]
    assert all(path.stat().st_size > 1000 for path in drawn)
    (ours, _) = made.rows
    assert plot.ratios([ours])[0] == pytest.approx((1, 0.85, 0.8, 0.9))
    assert plot.draw(report([SystemRun(OURS, 1, problem="no")]), tmp_path) == []


def test_each_system_is_first_as_often_as_last() -> None:
    assert list(command.order(["a", "b"], 3)) == [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b")]


def test_all_systems_get_the_same_load_and_every_round_has_prompts_of_its_own() -> None:
    settings = ComparisonSettings(concurrency=(1, 64), requests=4, least_requests=16)
    first, second = (list(command.loads(settings, 1024, number)) for number in (1, 2))
    assert [load.requests for load in first] == [16, 256]
    assert len({load.first_stream for load in first + second}) == 4


def test_settings_name_what_is_wrong_and_keep_the_order_of_the_systems(capsys: pytest.CaptureFixture[str]) -> None:
    assert read(ComparisonSettings, {"systems": "vllm-http, tokenrelay"}).systems == (OURS, BASELINE)
    with pytest.raises(typer.Exit):
        read(ComparisonSettings, {"systems": "other"})
    assert "SYSTEMS: Value error, there is no other" in capsys.readouterr().err
    assert command.command(ComparisonSettings(systems=(OURS,), rounds=2)) == ("make bench-compare SYSTEMS=tokenrelay ROUNDS=2")


def test_processes_are_bound_to_cores_where_there_are_two_or_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, pin, expected in (
        ({0, 1}, None, (0, 1)),
        ({0, 1}, False, (None, None)),
        ({2, 3, 5}, None, (None, None)),
        ({2, 3, 5}, True, (2, 3)),
        ({0}, True, (None, None)),
    ):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        assert ComparisonSettings(pin=pin).cores == expected
    assert command.pinning(None, None) == "No process is bound to a core."
    assert "core 0, all others and the client to core 1" in command.pinning(0, 1)


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name == "smg_grpc_proto" else name)
    monkeypatch.setattr(vllm_rs_binary, "installed", lambda: None)
    assert [name for name in NAMES if choice.missing(name)] == ["vllm-rust", "vllm-grpc", "smg"]
    assert choice.missing("smg") == "smg-grpc-proto"


def test_a_task_and_its_points_survive_the_way_to_the_client_and_back(tmp_path: Path) -> None:
    task = Task(system=OURS, setup=Setup(tmp_path, "model"), loads=[OfferedLoad(Workload(), 2, 1)], results=tmp_path / "points")
    assert Task.model_validate_json(task.model_dump_json()) == task
    assert POINTS.validate_json(POINTS.dump_json([point()])) == [point()]


def test_the_main_table_has_a_line_for_each_system() -> None:
    lines = list(table(ratios.rows(two_rounds(), BASELINE), MAIN))
    assert len(lines) == 4
    assert lines[2].startswith(f"| {TITLES[OURS]} | 125 (")


@pytest.mark.parametrize("name", ["tokenrelay", "tokenrelay-traced"])
def test_only_the_traced_stack_exports_spans_and_as_seldom_as_a_deployment(tmp_path: Path, name: str) -> None:
    system = create(name, Setup(tmp_path, "models/demo"))
    assert isinstance(system, Tokenrelay)
    telling = [{key for key in child._environment if key.startswith("OTEL_")} for child in system._children]
    assert any("OTEL_EXPORTER_OTLP_ENDPOINT" in keys for keys in telling) == (name == "tokenrelay-traced")
    assert not any(key.startswith("OTEL_BSP_") for keys in telling for key in keys)
