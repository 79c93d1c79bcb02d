"""A short drill: everything is killed once, under load, and the history shows nothing that must not be."""

import json
import sys
from pathlib import Path

from tests.support.local_stack import run


async def test_the_mixed_drill_holds_all_promises(tmp_path: Path) -> None:
    folder = tmp_path / "drill"
    status, told, problems = await run(sys.executable, "-m", "drills", "mixed", "--folder", str(folder))
    assert status == 0, f"{told}\n{problems}"
    (result,) = json.loads((folder / "report.json").read_text())["results"]
    assert result["violations"] == []
    assert result["generations"] > 20, told
    assert result["taken_over"] > 0, told
    assert result["faults"]["kill -9"] == 14, told
