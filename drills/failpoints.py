"""Places on a generation's way at which a process can be made to die, and the launcher of a program that has them.

`python -m drills.failpoints PROGRAM FOLDER` runs a program with all of its places watched. A place is armed by a file
of its name in the folder: the first process that reaches it takes the file away and sends itself the signal that it names.
So each arming hits once, and what is started again lives. A gateway on Envoy has its places in the Python inside Envoy, so
Envoy is what takes the signal.
"""

import functools
import importlib
import inspect
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.edge import envoy_configuration

GATEWAY, WORKER, ENGINE = "gateway", "broker_worker", "engine_service"
GENERATIONS, ATTEMPTS = "tokenrelay.store.generations", "tokenrelay.store.attempts"
QUEUE, LOG, REAPER = "tokenrelay.store.queue", "tokenrelay.store.log", "tokenrelay.store.reaper"
FEED = "tokenrelay.store.feed"
SERVICER = "gateway.grpc.generation_servicer"
INSIDE_ENVOY = "drills.inside_envoy:app"
FOLDER_VARIABLE = "DRILL_FAILPOINTS"  # tells the Python inside Envoy where its points are armed


class Trap:
    """A point in this process, whose mark has the id that the process is known by."""

    def __init__(self, folder: Path, name: str, known_as: int) -> None:
        self._file = folder / name
        self._mark = folder / f"{name}.{known_as}"

    def is_armed(self) -> bool:
        return self._file.exists()

    def __call__(self) -> None:
        """Takes the signal if it is armed. Renaming is atomic, so no two processes take the same."""
        with suppress(FileNotFoundError):
            self._file.rename(self._mark)
            os.kill(os.getpid(), int(self._mark.read_text()))


Wrap = Callable[[Any, Trap], Any]
"""Makes of a function one that calls the trap when the place is reached."""


def always(*_: Any) -> bool:
    return True


def before(only: Callable[..., Any] = always) -> Wrap:
    """Reached before a call, if its arguments are such."""

    def wrap(original: Any, reach: Trap) -> Any:
        if not inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            def called(*arguments: Any, **named: Any) -> Any:
                if only(*arguments):
                    reach()
                return original(*arguments, **named)

            return called

        @functools.wraps(original)
        async def awaited(*arguments: Any, **named: Any) -> Any:
            if only(*arguments):
                reach()
            return await original(*arguments, **named)

        return awaited

    return wrap


def after(only: Callable[..., Any] = always) -> Wrap:
    """Reached after an awaited call, if what it returned and its arguments are such."""

    def wrap(original: Any, reach: Trap) -> Any:
        @functools.wraps(original)
        async def awaited(*arguments: Any, **named: Any) -> Any:
            result = await original(*arguments, **named)
            if only(result, *arguments):
                reach()
            return result

        return awaited

    return wrap


def between_append_and_finish(original: Any, reach: Trap) -> Any:
    """Reached in the middle of Attempts.write, which has both in one round trip: only the first half is sent."""

    @functools.wraps(original)
    async def written(store: Any, additions: Sequence[Any], endings: Sequence[Any] = ()) -> Any:
        ended = {ending.generation_id for ending in endings}
        if ended & {addition.generation_id for addition in additions} and reach.is_armed():
            await original(store, additions)
            reach()
        return await original(store, additions, endings)

    return written


def after_a_last_frame(original: Any, reach: Trap) -> Any:
    """Reached in Frames.next when it is asked for a frame after one in which a generation ended; so that one has left."""

    @functools.wraps(original)
    async def taken(frames: Any) -> Any:
        if getattr(frames, "drill_ended", False):
            reach()
        frame = await original(frames)
        frames.drill_ended = frame is not None and any(output.WhichOneof("outcome") for output in frame.outputs)
        return frame

    return taken


@dataclass(frozen=True)
class Point:
    """A place.

    Attributes:
        program: which one has it: gateway, broker_worker or engine_service.
        module: where the function is that is wrapped,
        path: and under which name.
    """

    name: str
    program: str
    module: str
    path: str
    wrap: Wrap


def _begins(follower: Any, item: Any, *_: Any) -> bool:
    return item.entry is not None and follower.position == 0


def _adds(_: Any, additions: Sequence[Any], *__: Any) -> bool:
    return bool(additions)


def _added_and_ended_nothing(_: Any, __: Any, additions: Sequence[Any], endings: Sequence[Any] = ()) -> bool:
    return bool(additions) and not endings


def _ended(_: Any, __: Any, ___: Any, endings: Sequence[Any] = ()) -> bool:
    return bool(endings)


def _starts(_: Any, __: Any, request: Any) -> bool:
    return bool(getattr(request, "starts", ()))


POINTS = (
    Point("gateway-before-submit", GATEWAY, GENERATIONS, "Generations.submit", before()),
    Point("gateway-after-submit-before-accepted", GATEWAY, GENERATIONS, "Generations.submit", after()),
    Point("gateway-before-watch", GATEWAY, FEED, "Feed.join", before()),
    Point("gateway-after-watch", GATEWAY, FEED, "Feed.join", after()),
    Point("gateway-on-first-tokens-before-delivery", GATEWAY, "tokenrelay.store.follower", "Follower.push", before(_begins)),
    Point("gateway-on-the-end-before-finished", GATEWAY, "gateway.core.reports", "Reports.ended", before()),
    Point("gateway-after-finished-before-status", GATEWAY, SERVICER, "GenerationServicer._relay", after()),
    Point("gateway-before-unwatch", GATEWAY, FEED, "Feed.leave", before()),
    Point("gateway-after-unwatch", GATEWAY, FEED, "Feed.leave", after()),
    Point("gateway-before-cancel", GATEWAY, GENERATIONS, "Generations.cancel", before()),
    Point("gateway-after-cancel", GATEWAY, GENERATIONS, "Generations.cancel", after()),
    Point("gateway-after-reap", GATEWAY, REAPER, "Reaper.reap_once", after(lambda reaped, *_: reaped.taken_over)),
    Point("worker-after-read-before-claim", WORKER, QUEUE, "Queue.read", after(lambda found, *_: found)),
    Point("worker-after-claim-before-start", WORKER, ATTEMPTS, "Attempts.claim", after(lambda claims, *_: any(claims))),
    Point("worker-after-reading-log", WORKER, LOG, "TokenLog.read_whole", after()),
    Point("worker-after-start-sent", WORKER, "grpc.aio._call", "StreamStreamCall.write", after(_starts)),
    Point("worker-before-append", WORKER, ATTEMPTS, "Attempts.write", before(_adds)),
    Point("worker-after-append", WORKER, ATTEMPTS, "Attempts.write", after(_added_and_ended_nothing)),
    Point("worker-between-append-and-finish", WORKER, ATTEMPTS, "Attempts.write", between_append_and_finish),
    Point("worker-after-finish", WORKER, ATTEMPTS, "Attempts.write", after(_ended)),
    Point("worker-before-release", WORKER, ATTEMPTS, "Attempts.requeue", before()),
    Point("worker-after-release", WORKER, ATTEMPTS, "Attempts.requeue", after()),
    Point("worker-before-renew", WORKER, ATTEMPTS, "Attempts.renew", before()),
    Point("worker-after-renew", WORKER, ATTEMPTS, "Attempts.renew", after()),
    Point("worker-before-return-unclaimed", WORKER, QUEUE, "Queue.requeue", before()),
    Point("worker-after-return-unclaimed", WORKER, QUEUE, "Queue.requeue", after()),
    Point("worker-after-reap", WORKER, REAPER, "Reaper.reap_once", after(lambda reaped, *_: reaped.taken_over)),
    Point("engine-after-begin", ENGINE, "engine_service.session", "Session._begin", after()),
    Point("engine-before-frame", ENGINE, "engine_service.frames", "Frames.next", after(lambda frame, *_: frame is not None)),
    Point("engine-after-frame", ENGINE, "engine_service.frames", "Frames.next", before(lambda frames: frames._sent > 0)),
    Point("engine-after-last-frame", ENGINE, "engine_service.frames", "Frames.next", after_a_last_frame),
)


class Failpoints:
    """The folder in which points are armed. Its processes may be many; each arming is for whichever comes first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def command(self, program: str) -> list[str]:
        """Returns what runs a program with its points."""
        return [sys.executable, "-m", "drills.failpoints", program, str(self.folder)]

    def arm(self, point: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Has the next process that reaches a point send itself a signal."""
        assert any(point == known.name for known in POINTS), f"there is no point {point}"
        for former in self.folder.glob(f"{point}.*"):
            former.unlink()
        half_written = self.folder / "half-written"
        half_written.write_text(str(int(number)))
        half_written.rename(self.folder / point)

    def disarm(self) -> None:
        """Lets everybody pass."""
        for point in POINTS:
            (self.folder / point.name).unlink(missing_ok=True)

    def hit(self, point: str) -> int | None:
        """Returns the id of the process that a point has hit since it was armed last; of Envoy's parent if it hit Envoy."""
        return next((int(file.suffix[1:]) for file in self.folder.glob(f"{point}.*")), None)


def install(program: str, folder: Path, known_as: int | None = None) -> None:
    """Wraps what a program's points are about; the marks of this process have another id if it is known by that."""
    pid = os.getpid() if known_as is None else known_as
    for point in POINTS:
        if point.program == program:
            *owners, name = point.path.split(".")
            owner: Any = functools.reduce(getattr, owners, importlib.import_module(point.module))
            setattr(owner, name, point.wrap(getattr(owner, name), Trap(folder, point.name, pid)))


def install_inside_envoy(folder: Path) -> None:
    """Has Envoy, if this gateway starts one, load the application with the same points."""
    envoy_configuration.APPLICATION = INSIDE_ENVOY
    os.environ[FOLDER_VARIABLE] = str(folder)


def run(program: str) -> None:
    """Runs a program as `python -m` would."""
    sys.argv = [program]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    name, armed_in = sys.argv[1], Path(sys.argv[2])
    install(name, armed_in)
    if name == GATEWAY:
        install_inside_envoy(armed_in)
    run(name)
