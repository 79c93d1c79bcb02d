"""Ends a process whose engine hangs: generations are open, and for a long time no token has come.

It runs on a thread, because the event loop itself may hang. Nothing can be tidied up then: vLLM's own processes die with
this one, workers requeue the generations that ran here, and a supervisor restarts the service.
"""

import os
import sys
import threading
import time

import structlog

log = structlog.get_logger(__name__)

LOOKS = 10  # within the limit


class Progress:
    """How many generations are open, and when the last token came.

    Written by the event loop and read by the watchdog's thread without a lock: each value is replaced in one step, and a look
    that sees one of them a moment late is corrected by the next.
    """

    def __init__(self) -> None:
        self._open = 0
        self._moved_at = time.monotonic()

    def began(self) -> None:
        """Notes a generation. An engine that was idle has its time from now on."""
        if self._open == 0:
            self._moved_at = time.monotonic()
        self._open += 1

    def moved(self) -> None:
        """Notes that a token came."""
        self._moved_at = time.monotonic()

    def ended(self) -> None:
        """Notes the end of a generation."""
        self._open -= 1

    def silence(self) -> float:
        """Returns for how many seconds no token has come though generations are open."""
        return time.monotonic() - self._moved_at if self._open else 0.0


def start(progress: Progress, limit: float) -> threading.Event:
    """Watches until the returned event is set.

    Args:
        progress: of the engine.
        limit: seconds of silence that count as a hang.
    """
    stopped = threading.Event()
    threading.Thread(target=_watch, args=(progress, limit, stopped), name="watchdog", daemon=True).start()
    return stopped


def _watch(progress: Progress, limit: float, stopped: threading.Event) -> None:
    while not stopped.wait(limit / LOOKS):
        if progress.silence() > limit:
            log.critical("the engine hangs; this process ends", seconds_without_a_token=round(progress.silence(), 1))
            sys.stderr.flush()
            os._exit(1)
