"""A short comparison with vLLM's OpenAI server: real servers of a small model, which are gone afterwards."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.local_stack import ROOT

SYSTEMS = ("tokenrelay", "vllm-http")
CONCURRENCY, REQUESTS, TOKENS = 2, 2, 8
PATIENCE = 540.0  # seconds after which it counts as hung; about 60 on a machine with nothing else to do


def session(leader: int) -> list[str]:
    """Returns what runs of all that a session's leader has started, and what those have."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                found.append(" ".join(process.cmdline()) or process.name())
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.vllm
async def test_a_comparison_measures_all_systems_and_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "compare", "--systems", ",".join(SYSTEMS), "--results", str(tmp_path)]
    size = {"rounds": 1, "concurrency": CONCURRENCY, "requests": REQUESTS, "least-requests": 1, "output-tokens": TOKENS}
    options = [part for name, value in size.items() for part in (f"--{name}", str(value))]
    run = await asyncio.create_subprocess_exec(
        *command, *options, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        async with asyncio.timeout(PATIENCE):
            told, _ = await run.communicate()
    finally:
        if run.returncode is None:
            run.terminate()  # it ends what it has started
            await run.wait()
    assert run.returncode == 0, told.decode()
    assert session(run.pid) == []

    results = json.loads((tmp_path / "comparison.json").read_text())
    assert [(one["system"], one["round"], one["problem"]) for one in results["runs"]] == [(name, 1, "") for name in SYSTEMS]
    for one in results["runs"]:
        (point,) = one["points"]
        assert point["tokens"] == CONCURRENCY * REQUESTS * TOKENS
        assert point["refusals"] == {}
    ours, baseline = results["rows"]
    assert ours["figures"]["tokens_per_s"]["ratio"]["median"] > 0
    assert ours["figures"]["overhead_ms_p50"]["value"]["median"] > 0
    assert baseline["figures"]["ttft_ms_p50"]["ratio"]["median"] == 1.0
    assert f"## {CONCURRENCY} streams" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.png").exists()
