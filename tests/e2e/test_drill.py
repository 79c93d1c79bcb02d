"""A short drill: everything is killed once, under load, and the history shows nothing that must not be."""

import json
import sys
from pathlib import Path

from tests.support.local_stack import run

# Of a gateway on Envoy each of its two processes is killed alone.
KILLS = {
    "grpcio": {"kill -9": 14},
    "envoy": {"kill -9": 10, "kill -9 of Envoy's parent": 4, "kill -9 of Envoy alone": 2},
}


async def test_the_mixed_drill_holds_all_promises(tmp_path: Path, edge: str) -> None:
    folder = tmp_path / "drill"
    status, told, problems = await run(sys.executable, "-m", "drills", "mixed", "--edge", edge, "--folder", str(folder))
    assert status == 0, f"{told}\n{problems}"
    (result,) = json.loads((folder / "report.json").read_text())["results"]
    assert result["violations"] == []
    assert result["generations"] > 20, told
    assert result["taken_over"] > 0, told
    assert {name: count for name, count in result["faults"].items() if name.startswith("kill")} == KILLS[edge], told
