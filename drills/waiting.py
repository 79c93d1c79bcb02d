"""Waiting for something to become so, with a message when it does not."""

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 120.0  # seconds after which something counts as hung; how fast it is on a busy machine says nothing


async def eventually(is_so: Callable[[], Awaitable[object] | object], what: str, patience: float = PATIENCE) -> None:
    """Returns once something is so; fails with what was waited for."""
    give_up_at = time.monotonic() + patience
    while True:
        found = is_so()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < give_up_at, f"still not so after {patience} s: {what}"
        await asyncio.sleep(0.01)
