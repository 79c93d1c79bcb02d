"""A process as four verbs: start up, run, drain, stop."""

import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol

import structlog
import uvloop

from tokenrelay.start_up import StartUpError

log = structlog.get_logger(__name__)


FAILED = 1  # the exit status of an error that nobody expected; 0 is that of a process that was asked to stop


class Application(Protocol):
    """One process. The methods are called in this order; stop always, drain only after a start."""

    async def start_up(self) -> None:
        """Opens what the process needs and begins to serve. May wait for others; says so."""

    async def run(self) -> None:
        """Works until cancelled. Its return or error ends the process."""

    async def drain(self) -> None:
        """Takes no new work and finishes, or hands over, what is there. Bounded in time by the process itself."""

    async def stop(self) -> None:
        """Closes everything, whatever state it is in."""


def serve(application: Application) -> int:
    """Runs an application until SIGTERM or SIGINT, then drains; a second signal forces. Returns the exit status."""
    status: int = uvloop.run(_serve(application))
    return status


async def _serve(application: Application) -> int:
    stop = StopRequests()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.received.set)
    return await live(application, stop)


async def live(application: Application, stop: "StopRequests") -> int:
    """Takes an application through its four verbs; returns the exit status of its process."""
    try:
        if not await stop.interrupts(application.start_up()):
            await _run_and_drain(application, stop)
    except StartUpError as error:
        if not error.is_said:
            print(error, file=sys.stderr)  # noqa: T201
        log.error("cannot start", reason=str(error))  # noqa: TRY400  # the text is all there is to say
        return error.status
    except Exception:
        log.exception("failed")
        return FAILED
    finally:
        await application.stop()
        log.info("stopped")
    return 0


async def _run_and_drain(application: Application, stop: "StopRequests") -> None:
    _keep_what_is_there()
    log.info("ready")
    running = asyncio.create_task(application.run())
    stopping = asyncio.create_task(stop.received.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            return
        log.info("draining")
        stop.received.clear()
        if await stop.interrupts(application.drain()):
            log.warning("forced to stop before everything was drained")
    finally:
        for task in (running, stopping):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _keep_what_is_there() -> None:
    """Keeps what a start leaves behind out of every later search for garbage, each of which stops all streams."""
    gc.collect()
    gc.freeze()


class StopRequests:
    """Whether somebody has asked the application to stop, by a signal or otherwise."""

    def __init__(self) -> None:
        self.received = asyncio.Event()

    async def interrupts(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs some work; returns whether a request came before it was done, in which case it is cancelled."""
        working = asyncio.create_task(work)
        waiting = asyncio.create_task(self.received.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return True
            working.result()
            return False
        finally:
            for task in (working, waiting):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
