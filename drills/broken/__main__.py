"""Runs a broken program: `python -m drills.broken VARIANT PROGRAM FOLDER`, with failpoints in the folder."""

import sys
from collections.abc import Callable
from pathlib import Path

from drills import failpoints
from drills.broken import client_fence, group_at_end, pending_list, retries

VARIANTS: dict[str, Callable[[], None]] = {
    "client_fence": client_fence.install,
    "group_at_end": group_at_end.install,
    "pending_list": pending_list.install,
    "retries": retries.install,
}

if __name__ == "__main__":
    variant, program, folder = sys.argv[1:]
    # The points first: so they are inside of what the variant wraps.
    failpoints.install(program, Path(folder))
    VARIANTS[variant]()
    failpoints.run(program)
