"""`python -m bench memory`: a gateway's memory with streams that are idle, and with clients that never read."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from rich.console import Console

from bench.memory.idle import idle_streams
from bench.memory.settings import MemorySettings
from bench.memory.unread import Unread, UnreadStream
from bench.processes import metrics, usage
from bench.processes.child import INTERRUPTED, DidNotStartError, cancel_on_signals
from bench.settings.fields import results_folder
from bench.systems.tokenrelay import Tokenrelay
from deploy.local.plan import NoRedisError

MEBIBYTE, KIBIBYTE = 2**20, 2**10
SELDOM_MS, AT_ONCE_MS = 500.0, 0.0  # for a token
LOOKS, LOOK_INTERVAL = 8, 0.5  # seconds
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Held:
    """What a gateway held, with all that it has started, resident, in bytes.

    Attributes:
        before: with one stream that is idle, or none that is unread.
        most: with all of them, the highest seen.
        still_open: how many were open at the end; a gateway may end those that nobody reads.
        tokens: that were generated for each stream meanwhile.
    """

    what: str
    streams: int
    before: int
    most: int
    still_open: int
    tokens: int = 0

    @property
    def each(self) -> float:
        """Bytes a stream."""
        return (self.most - self.before) / self.streams


def memory(settings: MemorySettings) -> int:
    """Measures a gateway's memory: of a stream that is open and idle, and of a client that never reads."""
    began = datetime.now(UTC)
    folder = results_folder(settings.results, began)
    try:
        held = asyncio.run(_measure(settings, folder))
    except (DidNotStartError, NoRedisError, grpc.aio.AioRpcError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; there are no results.")
        return INTERRUPTED
    table = "\n".join(_table(held))
    (folder / "memory.md").write_text(table + "\n", encoding="utf-8")
    written = [{**asdict(one), "each": one.each} for one in held]
    (folder / "memory.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    console.print(f"\n{table}\n\nIn {folder}: memory.md, memory.json", markup=False)
    return 0


async def _measure(settings: MemorySettings, folder: Path) -> list[Held]:
    cancel_on_signals()
    held = [await _idle(settings, folder / "idle")]
    for kind in Unread:
        held.append(await _unread(settings, folder / kind.name.lower(), kind))
    return held


async def _idle(settings: MemorySettings, folder: Path) -> Held:
    console.print(f"{settings.streams} streams that are open and idle, over {settings.connections} connections")
    async with (
        # The first takes the only slot for long, so that all others wait for their first token.
        _stack(settings, folder, SELDOM_MS, 1) as system,
        idle_streams(system.targets[0], settings.connections) as streams,
    ):
        await streams.grow(1)
        before = await _highest(system, LOOKS * LOOK_INTERVAL)
        await streams.grow(settings.streams)
        most = await _highest(system, LOOKS * LOOK_INTERVAL)
        return Held("open and idle", settings.streams, before, most, await _open_calls(system))


async def _unread(settings: MemorySettings, folder: Path, kind: Unread) -> Held:
    console.print(f"{settings.unread} streams for {settings.unread_seconds:g} s, {kind.value}")
    async with _stack(settings, folder, AT_ONCE_MS, 4096) as system:
        (worker,) = system.metrics_ports("worker")
        before = await _highest(system, LOOKS * LOOK_INTERVAL)
        streams = [UnreadStream(system.targets[0], kind) for _ in range(settings.unread)]
        try:
            for stream in streams:
                await stream.open()
            most = await _highest(system, settings.unread_seconds)
            tokens = await metrics.total(worker, "tokenrelay_tokens_total")
            still_open = await _open_calls(system)
            if not tokens:
                raise DidNotStartError(f"no stream got an answer; see {folder}")
        finally:
            for stream in streams:
                await stream.close()
    return Held(kind.value, settings.unread, before, most, still_open, round(tokens / settings.unread))


@asynccontextmanager
async def _stack(settings: MemorySettings, folder: Path, step_ms: float, slots: int) -> AsyncIterator[Tokenrelay]:
    environment = {
        "TOKENRELAY_SIMULATED_STEP_MS": str(step_ms),
        "TOKENRELAY_SIMULATED_SLOTS": str(slots),
        "TOKENRELAY_KEEPALIVE_SECONDS": "3600",  # else a client with a full socket is soon closed, and holds nothing
    }
    system = Tokenrelay(folder, environment=environment, edge=settings.edge, engine="simulated", model="simulated")
    try:
        await system.start()
        yield system
    finally:
        await system.close()


async def _highest(system: Tokenrelay, seconds: float) -> int:
    """Returns the most that the gateway holds within some time."""
    gateway, most = system.processes()["gateway"], 0
    for _ in range(max(1, round(seconds / LOOK_INTERVAL))):
        most = max(most, usage.memory_bytes(gateway))
        await asyncio.sleep(LOOK_INTERVAL)
    return most


async def _open_calls(system: Tokenrelay) -> int:
    (port,) = system.metrics_ports("gateway")
    return round(await metrics.total(port, "tokenrelay_open_calls"))


def _table(held: list[Held]) -> list[str]:
    heads = ("streams", "", "before, MiB", "most, MiB", "a stream, KiB", "still open", "tokens generated for each")
    lines = [f"| {' | '.join(heads)} |", "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for one in held:
        sizes = f"{one.before / MEBIBYTE:.1f} | {one.most / MEBIBYTE:.1f} | {one.each / KIBIBYTE:,.1f}"
        lines.append(f"| {one.streams} | {one.what} | {sizes} | {one.still_open} | {one.tokens:,} |")
    return lines
