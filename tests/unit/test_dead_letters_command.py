"""The command for dead letters refuses what is no text before it asks Redis."""

import pytest
from typer.testing import CliRunner

from tokenrelay.admin.dead_letters import app

HALF = "half \udcff text"  # what the interpreter makes of bytes that are no UTF-8


@pytest.mark.parametrize("arguments", [["list", "--model", HALF], ["show", HALF], ["requeue", HALF], ["drop", HALF]], ids=repr)
def test_bytes_that_are_no_text(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "is not valid UTF-8" in result.stderr
