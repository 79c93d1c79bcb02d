"""`make demo`, as its user sees it."""

import re

import pytest

from bench.processes.ports import free_ports
from tests.support.local_stack import make

HOPS = ("receive", "enqueue", "queue wait", "claim", "dispatch", "engine queue", "prefill", "decode", "append", "relay")
SPANS = ("send", "queue wait", "process", "dispatch", "engine queue", "prefill", "decode", "append", "relay")


@pytest.mark.vllm
def test_make_demo_answers_and_shows_where_the_time_went(tmp_path: object) -> None:
    done = make("demo", PORT=str(free_ports()), STATE=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    story, _, rest = done.stdout.partition("--trace")[2].partition("hop ")
    assert len(re.findall(r"[A-Z][^.!?]{3,}[.!?]", story)) >= 5, story
    table, _, waterfall = rest.partition("Trace ")
    times = {name: float(value) for name, value in re.findall(r"^(\w[\w ]*?) +│ +(\d+\.\d+)", table, re.MULTILINE)}
    assert set(HOPS) <= times.keys(), table
    assert abs(sum(times[hop] for hop in HOPS) - times["total"]) <= 1, table
    assert times["measured by the client"] >= times["total"], table  # how much more is for a benchmark to say
    for span in SPANS:
        assert span in waterfall, waterfall
    assert done.stdout.rstrip().endswith("Stopped.")
