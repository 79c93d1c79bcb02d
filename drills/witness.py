"""Reads out of Redis what a history needs: every generation's log and record, and whether all is over."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import redis

from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import generation_pb2 as g

Client: TypeAlias = Any  # redis.Redis, whose annotations do not know that replies are bytes
PREFIX = "tokenrelay:{0}:"
RECORDS = PREFIX + "generation:"
PAGE = 500
LOAD_SECONDS = 60.0  # for a Redis to read its file
# What stays for ever, by design; see tokenrelay/store/keys.py.
LASTING = ("depth:", "jobs:", "returned:", "server", "finished", "due", "dead:")


def logs(client: Client) -> Iterator[dict[str, Any]]:
    """Yields every generation as fields of a `log` event."""
    for name in _ids(client):
        record: dict[bytes, bytes] = client.hgetall(RECORDS + name)
        yield {"id": name, **_of_record(record), **_of_log(client, name)}


def positions(client: Client) -> dict[str, tuple[int, bool]]:
    """Returns where each generation stands: its last sequence, and whether it is terminal."""
    names = list(_ids(client))
    found: dict[str, tuple[int, bool]] = {}
    for start in range(0, len(names), PAGE):
        page = names[start : start + PAGE]
        with client.pipeline(transaction=False) as pipeline:
            for name in page:
                pipeline.hmget(RECORDS + name, "last", "state")
            for name, (last, state) in zip(page, pipeline.execute(), strict=True):
                found[name] = (int(last), int(state) > g.GENERATION_STATE_RUNNING)
    return found


def rest(client: Client) -> dict[str, Any]:
    """Returns what should be nothing once all is over, as fields of an `idle` event."""
    pending = queued = 0
    without_expiry = []
    for raw in client.scan_iter(f"{PREFIX}*", count=PAGE):
        key = raw.decode()
        kind = key.removeprefix(PREFIX)
        if kind.startswith(("jobs:", "returned:")):
            queued += client.xlen(key)
            with suppress(redis.ResponseError):
                pending += sum(group["pending"] for group in client.xinfo_groups(key))
        elif not kind.startswith(LASTING) and client.pttl(key) < 0:
            without_expiry.append(key)
    due = client.zcard(PREFIX + "due")
    depth = sum(int(client.hget(key, "generations") or 0) for key in client.scan_iter(f"{PREFIX}depth:*"))
    return {"pending": pending, "queued": queued, "due": due, "depth": depth, "without_expiry": without_expiry[:20]}


def is_idle(found: dict[str, Any]) -> bool:
    """Tells whether nothing waits or runs any more."""
    return not any(found.values())


@contextmanager
def disk_of(executable: str, copy: Path) -> Iterator[Client]:
    """Opens a copy of what a dead Redis has left on disk, in a server of its own."""
    socket = copy / "redis.sock"
    command = [executable, "--port", "0", "--unixsocket", str(socket), "--dir", str(copy), "--appendonly", "yes", "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(socket))
    try:
        wait_until_loaded(client)
        yield client
    finally:
        client.close()
        server.kill()
        server.wait()


def wait_until_loaded(client: Client, seconds: float = LOAD_SECONDS) -> None:
    """Returns once a Redis has read its file and answers.

    Raises:
        TimeoutError: it did not within some time.
    """
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        try:
            client.exists("tokenrelay:nothing")
        except (redis.ConnectionError, redis.BusyLoadingError, redis.TimeoutError):
            time.sleep(0.01)
        else:
            return
    raise TimeoutError(f"redis did not answer within {seconds:.0f} s")


def _ids(client: Client) -> Iterator[str]:
    seen = set()
    for key in client.scan_iter(RECORDS + "*", count=PAGE):
        name = key.decode().removeprefix(RECORDS)
        if name not in seen:
            seen.add(name)
            yield name


def _of_record(record: dict[bytes, bytes]) -> dict[str, Any]:
    attempts = [
        [int(number) for number in attempt.split(b",")] for attempt in record.get(b"history", b"").split(b";") if attempt
    ]
    return {
        "state": g.GenerationState.Name(g.GenerationState.ValueType(int(record[b"state"]))).removeprefix("GENERATION_STATE_"),
        "key_hash": record.get(b"idempotency", b"").decode() or None,
        "attempts": attempts,
        "epoch": int(record[b"epoch"]),
        "claimed_us": int(record.get(b"claimed_us", 0)),
        "fingerprint": record.get(b"fingerprint", b"").decode() or None,
        "submitted_us": int(record[b"submitted_us"]),
    }


def _of_log(client: Client, name: str) -> dict[str, Any]:
    entries: list[tuple[int, int, list[int]]] = []
    texts: list[str] = []
    terminals: list[store_pb2.Terminal] = []
    for entry, fields in client.xrange(f"{PREFIX}log:{name}"):
        if b"t" in fields:
            terminals.append(store_pb2.Terminal.FromString(fields[b"t"]))
            continue
        logged = store_pb2.LogEntry.FromString(fields[b"e"])
        delta = g.Delta.FromString(logged.delta)
        entries.append((int(entry.partition(b"-")[0]), logged.epoch, list(delta.token_ids)))
        texts.append(delta.text)
    last = terminals[-1] if terminals else store_pb2.Terminal()
    return {
        "entries": entries,
        "text": "".join(texts),
        "terminals": len(terminals),
        "engine_called": bool(last.timeline.scheduled_us),
        "digest": last.digest.hex(),
        "reason": last.error.message or None,
    }
