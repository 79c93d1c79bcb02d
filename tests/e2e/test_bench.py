"""`make bench`, as its user sees it, with a stack that it starts and ends."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

from bench.settings import PREFIX
from tests.support.local_stack import ROOT, make

PNG = b"\x89PNG\r\n\x1a\n"
MARK = "BENCH_TEST_MARK"
CONCURRENCY, ROUNDS, OUTPUT_TOKENS = (1, 4), 2, 8
HOPS = {"receive", "enqueue", "queue_wait", "claim", "dispatch", "engine_queue", "prefill", "decode", "append", "relay"}


def environment(results: Path, **variables: str) -> dict[str, str]:
    """What a run inherits; all that it starts has the mark too."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    given = {"ENGINE": "simulated", "RESULTS": str(results), **variables}
    return {**kept, MARK: str(uuid.uuid4()), **{PREFIX + name: value for name, value in given.items()}}


def left_behind(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


async def bench(variables: dict[str, str], name: str = "run") -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "bench", name)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *command, env=variables, cwd=ROOT, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )


async def test_a_sweep_over_a_stack_of_its_own(tmp_path: Path) -> None:
    variables = environment(
        tmp_path,
        CONCURRENCY=",".join(map(str, CONCURRENCY)),
        ROUNDS=str(ROUNDS),
        OUTPUT_TOKENS=str(OUTPUT_TOKENS),
        PROCESSES="2",
        SIMULATED_STEP_MS="1",
    )
    process = await bench(variables)
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    assert "| tokens in |" in printed
    assert str(tmp_path) in printed
    assert left_behind(variables[MARK]) == []
    check_results(tmp_path)


def check_results(folder: Path) -> None:
    written = json.loads((folder / "results.json").read_text())
    assert written["engine"] == "simulated"
    assert written["settings"]["concurrency"] == list(CONCURRENCY)
    assert len(written["saturation"]) == 1
    assert [point["concurrency"] for point in written["points"]] == list(CONCURRENCY)
    for point in written["points"]:
        assert point["refusals"] == {}
        assert point["requests"] == point["answered"] == point["concurrency"] * ROUNDS
        assert point["tokens"] == point["requests"] * OUTPUT_TOKENS
        assert set(point["hops_ms"]) == HOPS
        assert {"client", "gateway", "worker", "engine", "redis"} <= point["cpu_us_per_token"].keys()
        assert all(point["memory_mib"][group] > 0 for group in ("gateway", "worker", "engine", "redis"))
        for name in ("ttft_ms", "tpot_ms", "e2e_ms", "overhead_ms"):
            assert 0 < point[name]["p50"] <= point[name]["p99"], name
    assert {path.stem for path in folder.glob("*.png")} == {"throughput", "latency", "hops"}
    for name in ("throughput", "latency", "hops"):
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)
        assert "simulated" in (folder / f"{name}.svg").read_text()
    assert "# Load on simulated engine" in (folder / "results.md").read_text()


async def test_a_run_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    variables = environment(tmp_path, CONCURRENCY="2", ROUNDS="100000")
    process = await bench(variables)
    assert process.stdout is not None
    printed = ""
    while "1/1" not in printed:  # the first point has begun
        line = (await process.stdout.readline()).decode()
        assert line, printed
        printed += line
    assert any("broker_worker" in command for command in left_behind(variables[MARK]))
    process.terminate()
    await process.communicate()
    assert process.returncode == 130
    assert left_behind(variables[MARK]) == []
    assert not (tmp_path / "results.json").exists()


def test_make_passes_variables_on_and_a_wrong_one_is_named() -> None:
    done = make("bench", CONCURRENCY="1,many")
    assert done.returncode != 0
    assert "CONCURRENCY: " in done.stderr


def test_a_profile_has_a_flame_graph_of_each_process(tmp_path: Path) -> None:
    variables = environment(tmp_path, CONCURRENCY="4", ROUNDS="10", OUTPUT_TOKENS="32", SIMULATED_STEP_MS="1")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "profile"], env=variables, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1280 tokens in 40 answers" in done.stdout
    for name in ("gateway-1", "worker-1", "engine-1"):
        assert "<svg" in (tmp_path / f"{name}.svg").read_text(), (tmp_path / "py-spy.log").read_text()
    assert left_behind(variables[MARK]) == []
