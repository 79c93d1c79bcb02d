"""The history of a drill: what every client saw and what was done to the stack, one JSON object a line.

Every event has `at`, seconds since the epoch on the machine's clock, and `kind`. Clients write

- `call`, before they call: `call` (its number), `client` (library or stub), `method`, and what it asks for: `prompt`,
  `max_tokens` and `key`, or `id` and `after`
- `accepted`, when they learn the generation's id: `call`, `id`
- `delta`: `call`, `id`, `sequence` after it, `tokens`, `text`
- `finished`: `call`, `id`, `sequence`, `digest`, `attempts`, `exact`
- `failed`, when a call ended otherwise and is not made again: `call`, `id` or null, `code`, `reason`
- `left`, when they go away: `call`, `id` or null, `why` (left or cancelled)

and the harness writes

- `drill`, first: `name`, `seed`, `engine`, `allowed` (reasons that may reach a user here), `may_exit`,
  `drops_finished`, `settings`
- `expected`, for an engine that computes a model: `prompt`, `max_tokens`, `tokens` and `text` of an undisturbed run
- `fault` and `healed`: `fault`, `target`, and what describes it
- `exit`, when a process ends: `process`, `pid`, `status`, `wanted` (the harness ended it), `left` (processes that it had
  started and that stay)
- `without_envoy`, when the Envoy of a gateway was killed: `process`, its own exit `status`, the line that `told` why or null
- `serving`, when a killed Redis answers again: `target`, `died_at`
- `survived`, what was on its disk then, read from a copy: `died_at`, `logs` (id to last sequence and whether it is terminal)
- `promoted`, when another Redis takes the writes: `target`, `since` and `until` (between these the former one may have
  taken writes that are lost), `logs` (as in `survived`; where each generation stood before anybody reached the new one)
- `log`, at the end, for each generation: `id`, `state`, `key_hash`, `entries` (sequence, epoch, tokens), `text`, `terminals`
  (how many terminal records), `attempts` (claimed at, last append at, log's sequence at its end; in µs), `claimed_us`,
  `fingerprint` (of the engine that wrote its tokens),
  `engine_called` (by the last attempt), `digest`, `reason`
- `idle`, when all should be over: `pending`, `queued`, `running`, `without_expiry` (keys)
- `end`, last: the history is whole
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

Event = dict[str, Any]


class History:
    """Writes events as they come."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines = file.open("w", encoding="utf-8")

    def __enter__(self) -> "History":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def note(self, kind: str, **fields: Any) -> None:
        """Writes an event."""
        line = json.dumps({"at": time.time(), "kind": kind, **fields}, separators=(",", ":"), ensure_ascii=False)
        self._lines.write(line + "\n")

    def flush(self) -> None:
        """Makes all that was noted readable."""
        self._lines.flush()

    def close(self) -> None:
        self._lines.close()


def read(file: Path) -> Iterator[Event]:
    """Yields the events of a history."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
