"""What processes hold: memory, file descriptors and threads from /proc, and what they tell about themselves."""

import asyncio
import re
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.local import plan
from drills import family, unix_sockets
from drills.cluster import Cluster

MEBIBYTE = 2**20
TASKS = "tokenrelay_asyncio_tasks"
OURS = ("gateway", "worker", "engine")


@dataclass(frozen=True)
class Footprint:
    """What a process and its children hold.

    Attributes:
        memory: resident bytes.
        descriptors: without connections to Redis, which are kept for the next command and are as many as were ever needed
            at the same time.
        pooled: these connections.
        threads: without those of gRPC's pool, of which there are more for a while after it was busy.
        tasks: of asyncio, as the process tells; None if it does not.
    """

    pids: tuple[int, ...]
    memory: int
    descriptors: int
    pooled: int
    threads: int
    tasks: int | None = None

    def __str__(self) -> str:
        tasks = "" if self.tasks is None else f", {self.tasks} tasks"
        descriptors = f"{self.descriptors} descriptors and {self.pooled} connections with Redis"
        return f"{self.memory / MEBIBYTE:.1f} MiB, {descriptors}, {self.threads} threads{tasks}"


def footprint(cluster: Cluster, name: str, tasks: int | None = None) -> Footprint:
    """Returns what a process of a cluster and its children hold now."""
    pid = cluster.members[name].pid
    assert pid is not None, f"{name} does not run; see {cluster.members[name].log_file}"
    pids = tuple(family.tree(pid))
    pooled = _connections_with_redis(cluster)
    statuses = [Path(f"/proc/{one}/status").read_text(encoding="utf-8") for one in pids]
    memory = sum(_number(status, "VmRSS") for status in statuses) * 1024
    threads = sum(_threads(one) for one in pids)
    descriptors = [target for one in pids for target in _descriptors(one)]
    with_redis = sum(target in pooled for target in descriptors)
    return Footprint(pids, memory, len(descriptors) - with_redis, with_redis, threads, tasks)


async def footprints(cluster: Cluster) -> dict[str, Footprint]:
    """Returns what each process of a cluster holds now, by name."""
    found = {}
    for name in cluster.members:
        tasks = await metric(cluster.metrics_port(name), TASKS) if name.partition("-")[0] in OURS else None
        found[name] = footprint(cluster, name, None if tasks is None else round(tasks))
    return found


async def lowest(cluster: Cluster, seconds: float, every: float = 0.5) -> dict[str, Footprint]:
    """Returns the least of everything that each process held over some seconds: what stays, without what is passing."""
    found = await footprints(cluster)
    for _ in range(round(seconds / every)):
        await asyncio.sleep(every)
        for name, now in (await footprints(cluster)).items():
            before = found[name]
            found[name] = Footprint(
                now.pids,
                min(before.memory, now.memory),
                min(before.descriptors, now.descriptors),
                min(before.pooled, now.pooled),
                min(before.threads, now.threads),
                None if before.tasks is None or now.tasks is None else min(before.tasks, now.tasks),
            )
    return found


def not_back(before: Mapping[str, Footprint], now: Mapping[str, Footprint]) -> list[str]:
    """Tells what holds more descriptors, threads or tasks than before."""
    found = []
    for name, then in before.items():
        for what in ("descriptors", "threads", "tasks"):
            had, has = getattr(then, what), getattr(now[name], what)
            if had is not None and has is not None and has > had:
                found.append(f"{name}: {has} {what}, before {had}")
    return found


def grown(before: Mapping[str, Footprint], now: Mapping[str, Footprint], share: float) -> list[str]:
    """Tells what has more memory than before by more than a share of it."""
    return [
        f"{name}: {now[name].memory / MEBIBYTE:.1f} MiB, before {then.memory / MEBIBYTE:.1f} MiB"
        for name, then in before.items()
        if now[name].memory > then.memory * (1 + share)
    ]


def memory_table(before: Mapping[str, Footprint], now: Mapping[str, Footprint]) -> str:
    """Returns how the memory of each process changed, for people."""
    return ", ".join(
        f"{name} {then.memory / MEBIBYTE:.1f} → {now[name].memory / MEBIBYTE:.1f} MiB "
        f"({100 * (now[name].memory / then.memory - 1):+.1f} %)"
        for name, then in before.items()
    )


async def metric(port: int, name: str) -> float | None:
    """Reads a metric of a process, summed over its labels; None if it has no such metric."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
            return str(response.read().decode())

    values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", await asyncio.to_thread(read), re.MULTILINE)
    return sum(map(float, values)) if values else None


def tracebacks(logs: Iterable[Path]) -> list[str]:
    """Returns the lines of logs that hold a traceback, each cut short."""
    found = []
    for log in logs:
        with log.open(encoding="utf-8", errors="replace") as lines:
            found += [f"{log.name}: {line[:300].strip()}" for line in lines if "Traceback" in line or '"exc_type"' in line]
    return found


def _connections_with_redis(cluster: Cluster) -> set[str]:
    """Returns the ends of connections with Redis, by its port and by its Unix socket, as the kernel names descriptors."""
    path = plan.redis_socket(cluster.settings)
    ends = set() if path is None else unix_sockets.connected_with(str(path))
    return _sockets_of(cluster.redis_port) | {f"socket:[{inode}]" for inode in ends}


def _sockets_of(port: int) -> set[str]:
    """Returns the connections with a port at either end."""
    lines = Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]
    fields = [line.split() for line in lines]
    ends = f":{port:04X}"
    # A socket that listens has no other end.
    return {
        f"socket:[{one[9]}]" for one in fields if one[2] != "00000000:0000" and (one[1].endswith(ends) or one[2].endswith(ends))
    }


def _descriptors(pid: int) -> Iterable[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield str(descriptor.readlink())


def _threads(pid: int) -> int:
    count = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            count += (thread / "comm").read_text(encoding="utf-8").strip() != "event_engine"
    return count


def _number(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0  # a process that has just ended has no memory
