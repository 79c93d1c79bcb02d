"""What the event loop inside Envoy does with an error that a callback raises."""

import asyncio
import re
from typing import Any

import structlog

log = structlog.get_logger(__name__)

# Callbacks of Envoy's module, which end a wait for the client.
ENDS_A_WAIT = re.compile(r"_pyvoy\.asgi\.\w*RecvFutureExecutor|method set_(?:result|exception) of _asyncio\.Future")


def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs an error, unless it is one of a call that was cancelled.

    A cancel ends the wait that the call is in. The module does not look whether a wait still goes on before it ends it, and
    has no better moment either: a client that leaves is what cancels a call, and what ends its waits.
    """
    if isinstance(context.get("exception"), asyncio.InvalidStateError) and ENDS_A_WAIT.search(context["message"]):
        log.debug("envoy's module ends a wait that was cancelled")
    else:
        loop.default_exception_handler(context)
