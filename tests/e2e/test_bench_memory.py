"""`make bench-memory` in a small size: idle streams, clients that never read, and nothing that is left behind."""

import json
from pathlib import Path

from tests.e2e.test_bench import MARK, bench, environment, left_behind

STREAMS, UNREAD = 12, 2


async def test_a_gateway_s_memory_is_measured_with_streams_that_stay_open(tmp_path: Path) -> None:
    size = {"STREAMS": str(STREAMS), "CONNECTIONS": "3", "UNREAD": str(UNREAD), "UNREAD_SECONDS": "2"}
    variables = environment(tmp_path, **size)
    process = await bench(variables, "memory")
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    assert left_behind(variables[MARK]) == []
    idle, *unread = json.loads((tmp_path / "memory.json").read_text())
    assert (idle["streams"], idle["still_open"]) == (STREAMS, STREAMS)
    assert [one["still_open"] for one in unread] == [UNREAD, UNREAD]
    for one in unread:
        assert one["tokens"] > 0
        assert one["most"] >= one["before"] > 0
    assert f"| {STREAMS} | open and idle |" in (tmp_path / "memory.md").read_text()
