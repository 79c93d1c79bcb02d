"""Looks at the serving side while a point lasts: CPU and memory of its processes, KV cache and prefix cache, GPU memory."""

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from bench.processes import usage
from bench.results.figures import Served

INTERVAL = 0.5  # seconds between looks
PATIENCE = aiohttp.ClientTimeout(total=5.0)
# vLLM's own metrics; a simulated engine has none.
KV_CACHE_USAGE, PREFIX_QUERIES, PREFIX_HITS = (
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
)
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits")


class Observer:
    """Watches one deployment.

    Args:
        pids: returns the process ids by group; of a deployment elsewhere, none.
        metrics: where engine services show their metrics, host:port.
    """

    def __init__(self, pids: Callable[[], Mapping[str, Sequence[int]]], metrics: Sequence[str]) -> None:
        self._pids = pids
        self._metrics = metrics
        self._memory: dict[str, int] = {}
        self._kv_cache: list[float] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks again and again, beside what is done meanwhile."""
        self._memory, self._kv_cache = {}, []
        looking = asyncio.create_task(self._look_on(self._groups()))
        try:
            yield
        finally:
            looking.cancel()

    async def _look_on(self, groups: Mapping[str, Sequence[int]]) -> None:
        # The processes are those of the beginning: to look for new ones costs more than all the rest.
        while True:
            for group, pids in groups.items():
                self._memory[group] = max(usage.memory_bytes(pids), self._memory.get(group, 0))
            self._kv_cache += (await self.engine_metrics()).get(KV_CACHE_USAGE, [])
            await asyncio.sleep(INTERVAL)

    def cpu_seconds(self) -> dict[str, float]:
        """Returns what each group has taken so far."""
        return usage.cpu_seconds_of(self._groups())

    def _groups(self) -> dict[str, Sequence[int]]:
        return {name: pids for name, pids in self._pids().items() if pids}

    async def engine_metrics(self) -> dict[str, list[float]]:
        """Returns vLLM's metrics by name, a value for each engine; empty if there are none."""
        found: dict[str, list[float]] = {}
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            for address in self._metrics:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://{address}/metrics") as response:
                        for name, value in values(await response.text()):
                            found.setdefault(name, []).append(value)
        return found

    def served(
        self,
        cpu_before: Mapping[str, float],
        cpu_after: Mapping[str, float],
        metrics_before: Mapping[str, Sequence[float]],
        metrics_after: Mapping[str, Sequence[float]],
        gpu: tuple[float, float] | None,
    ) -> Served:
        """Returns what was seen between two looks."""
        queries = _grown(PREFIX_QUERIES, metrics_before, metrics_after)
        hits = _grown(PREFIX_HITS, metrics_before, metrics_after)
        return Served(
            cpu_seconds={group: used - cpu_before.get(group, 0.0) for group, used in cpu_after.items()},
            memory_bytes=self._memory,
            kv_cache_share=max(self._kv_cache, default=None),
            prefix_hit_share=hits / queries if queries else None,
            gpu_used_mib=gpu[0] if gpu else None,
            gpu_total_mib=gpu[1] if gpu else None,
        )


def values(text: str) -> Iterator[tuple[str, float]]:
    """Yields the values in a metrics page that a measurement is about."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in (KV_CACHE_USAGE, PREFIX_QUERIES, PREFIX_HITS):
                yield sample.name, sample.value


async def gpu_memory() -> tuple[float, float] | None:
    """Returns the used and the whole memory of all GPUs in MiB; None without a GPU."""
    if shutil.which(NVIDIA_SMI[0]) is None:
        return None
    process = await asyncio.create_subprocess_exec(
        *NVIDIA_SMI, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    text = (await process.communicate())[0].decode()
    return gpu_lines(text) if process.returncode == 0 else None


def gpu_lines(text: str) -> tuple[float, float] | None:
    """Adds up what nvidia-smi says of each GPU; None if it says nothing in numbers."""
    used = total = 0.0
    for line in text.splitlines():
        try:
            one_used, one_total = (float(part) for part in line.split(","))
        except ValueError:  # such as "[N/A]"
            return None
        used, total = used + one_used, total + one_total
    return (used, total) if total else None


def _grown(name: str, before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]) -> float:
    return sum(after.get(name, ())) - sum(before.get(name, ()))
