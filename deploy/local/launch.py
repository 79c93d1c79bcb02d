"""Becomes one process of the stack: `python -m deploy.local.launch NAME`, as supervisord starts it.

Commands and variables stand in a file that only its owner can read, because a variable may hold Redis' password.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.plan import Process  # costs a process of the stack half a second to import

VARIABLE = "TOKENRELAY_STACK_PROCESSES"  # names the file


def write(file: Path, processes: "Sequence[Process]") -> None:
    """Writes the file, readable for its owner alone from the first byte on."""
    text = json.dumps({one.name: {"command": one.command, "environment": one.environment} for one in processes})
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    fresh.replace(file)


def environment(file: Path, name: str) -> dict[str, str]:
    """Returns the variables that a process of the file is started with."""
    found: dict[str, str] = json.loads(file.read_text())[name]["environment"]
    return found


def main(name: str) -> None:
    """Turns this process into the one of that name."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TOKENRELAY_STACK_")}  # noqa: TID251
    process = json.loads(Path(os.environ[VARIABLE]).read_text())[name]  # noqa: TID251  # set by the supervisor
    os.execvpe(process["command"][0], process["command"], {**inherited, **process["environment"]})


if __name__ == "__main__":
    main(sys.argv[1])
