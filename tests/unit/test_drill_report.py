"""What the drills' report says, and how results reach docs/promises.md."""

import json
from pathlib import Path
from random import Random

import pytest

from drills import report, scenarios
from drills.checker import Violation
from drills.history import Event, History
from drills.report import Report, Result, result_of
from drills.scenario import Drill

EVENTS: list[Event] = [
    {"kind": "call"},
    {"kind": "accepted", "id": "0-1"},
    {"kind": "fault", "fault": "kill -9"},
    {"kind": "fault", "fault": "kill -9"},
    {"kind": "log", "id": "0-1", "entries": [[2, 1, [7, 8]], [3, 2, [9]]], "attempts": [[1, 2, 2]]},
]


def result(tmp_path: Path, name: str = "kills", edge: str | None = None) -> Result:
    with History(tmp_path / "history.jsonl") as history:
        drill = Drill(name, tmp_path, history, Random(1), True, lambda _: None, edge)
    drill.judge("errors", seen="1", wanted="0", held=False)
    return result_of(drill, "What happens.", "1", 2.0, EVENTS)


def test_a_history_is_counted(tmp_path: Path) -> None:
    found = result(tmp_path)
    assert (found.calls, found.generations, found.tokens, found.taken_over) == (1, 1, 3, 1)
    assert found.faults == {"kill -9": 2}


def test_the_command_of_a_result_makes_it_again(tmp_path: Path) -> None:
    assert result(tmp_path).command == "python -m drills kills --seed 1 --long"
    assert result(tmp_path, edge="envoy").command == "python -m drills kills --seed 1 --long --edge envoy"


def test_a_missed_bar_and_a_violation_are_told(tmp_path: Path) -> None:
    found = result(tmp_path)
    found.violations = [Violation("fenced", "0-1", "an old attempt wrote")]
    whole = Report("python -m drills", 1, [found])
    assert not whole.is_good
    assert "**1 violations**" in whole.markdown()
    assert "| kills | errors | 0 | 1 | **no** |" in whole.markdown()
    assert "violation in kills: fenced: 0-1: an old attempt wrote" in whole.markdown()


def test_the_newest_result_of_each_drill_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, published = tmp_path / "promises.md", tmp_path / "drills.json"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PROMISES", page)
    monkeypatch.setattr(report, "PUBLISHED", published)
    Report("command", 1, [result(tmp_path, "pauses", "envoy")]).write(tmp_path)
    report.publish([tmp_path])
    for names in (["kills", "pauses"], ["kills"]):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        Report("command", 1, [result(tmp_path, name) for name in names]).write(folder)
        report.publish([folder])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text  # noqa: PT018  # one page
    for title in ("kills", "pauses", "pauses, envoy"):
        assert text.count(f"| {title} | What happens.") == 1
    assert [one["name"] for one in json.loads(published.read_text())] == ["kills", "pauses", "pauses"]


def test_every_drill_is_run_and_says_what_it_does() -> None:
    folder = Path(scenarios.__file__).parent
    assert {file.stem for file in folder.glob("*.py")} - {"__init__"} == set(scenarios.SCENARIOS)
    assert all(story.endswith(".") for _, story in scenarios.SCENARIOS.values())
