"""The clients take the names of spans, attributes and hops from where everybody does."""

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

from tokenrelay import client, conventions
from tokenrelay.client.command_line import display
from tokenrelay.v1 import generation_pb2 as g

NAMES = {value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)}
(FOLDER,) = map(Path, client.__path__)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.name)
def test_no_name_is_written_twice(path: Path) -> None:
    written = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert not {value for value in written if isinstance(value, str)} & NAMES


def test_hops_are_shown_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "hop_name", lambda kind: f"the_hop_{kind}")
    shown = io.StringIO()
    display.show_hops(Console(file=shown, width=100), g.Timings(hops=[g.Hop(kind=g.HOP_KIND_QUEUE_WAIT)]))
    assert f"the hop {g.HOP_KIND_QUEUE_WAIT}" in shown.getvalue()
