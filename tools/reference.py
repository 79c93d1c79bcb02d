"""Writes docs/reference/ from the code: settings, Redis keys, errors, metrics. `make reference`; a test compares.

There is one list of each in the code, and the documents are made of it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from google.rpc import code_pb2
from prometheus_client import CollectorRegistry

from bench.compare.settings import ComparisonSettings
from bench.memory.settings import MemorySettings
from bench.run.settings import BenchSettings
from broker_worker.settings import WorkerSettings
from deploy.local.settings import CommandSettings
from engine_service.settings import EngineSettings
from gateway.settings import GatewaySettings
from tokenrelay import conventions, errors, metrics, settings
from tokenrelay.admin.settings import AdminSettings
from tokenrelay.client.command_line.settings import CommandLineSettings
from tokenrelay.errors import TokenrelayError
from tokenrelay.store import keys

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Written by tools/reference.py from the code; do not edit. -->\n\n"


def documents() -> dict[str, str]:
    """Returns the documents' texts by file name."""
    return {
        "settings.md": NOTE + settings_document(),
        "redis-keys.md": NOTE + redis_keys_document(),
        "errors.md": NOTE + errors_document(),
        "metrics.md": NOTE + metrics_document(),
    }


def settings_document() -> str:
    """Returns the tables of all settings, one a process."""
    parts = [
        "# Settings\n\nEach process reads its settings from environment variables, once, at its start. "
        "A wrong value ends it with a message that names the variable.\n"
    ]
    for title, kind in (
        ("Gateway", GatewaySettings),
        ("Broker worker", WorkerSettings),
        ("Engine service", EngineSettings),
        ("Command line", CommandLineSettings),
        ("Operators' commands", AdminSettings),
    ):
        rows = [
            (f"`{settings.variable(kind, name)}`", f"`{_default(field.default)}`", field.description or "")
            for name, field in kind.model_fields.items()
        ]
        parts.append(f"## {title}\n\n" + _table(("variable", "default", "what"), rows))
    for title, told in (
        ("Local stack (`make up`, `make demo`)", CommandSettings),
        ("Load generator (`make bench`, `make profile`)", BenchSettings),
        ("Comparison (`make bench-compare`)", ComparisonSettings),
        ("A gateway's memory (`make bench-memory`)", MemorySettings),
    ):
        prefix = told.model_config["env_prefix"]
        named = [
            (f"`{prefix}{name.upper()}`", f"`{name.upper()}=`", f"`{_default(field.default)}`", field.description or "")
            for name, field in told.model_fields.items()
        ]
        parts.append(f"## {title}\n\n" + _table(("variable", "for make", "default", "what"), named))
    return "\n".join(parts)


def _default(value: object) -> str:
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    text = "unset" if value is None else str(value).replace(str(FOLDER.parents[1]), ".")
    return text or "empty"


def redis_keys_document() -> str:
    """Returns the tables of keys.py."""
    _, _, rest = (keys.__doc__ or "").partition("\n\n")
    return "# Redis keys\n\n" + rest.strip() + "\n"


def errors_document() -> str:
    """Returns the table of all errors."""
    rows = []
    for kind in _tree(TokenrelayError):
        retry = "yes, after RetryInfo's delay" if issubclass(kind, errors.UnavailableError) else ""
        if kind in (errors.QueueFullError, errors.StoreFullError):
            retry = "after RetryInfo's delay"
        rows.append((code_pb2.Code.Name(kind.code), f"`{kind.reason}`", _first_line(kind.__doc__), retry))
    text = (
        '# Errors\n\nEvery error is a google.rpc.Status with `ErrorInfo{reason, domain: "tokenrelay"}`, and with `BadRequest` '
        "where fields are wrong or `RetryInfo` where a retry makes sense. The message names the field and the limit.\n\n"
        "The client library raises them as the classes of `tokenrelay.errors`.\n\n"
    )
    return text + _table(("code", "reason", "what", "retry"), rows)


def _tree(kind: type[TokenrelayError]) -> list[type[TokenrelayError]]:
    found: list[type[TokenrelayError]] = []
    for child in kind.__subclasses__():
        # Modules refine errors for themselves; a client sees those of tokenrelay.errors.
        if child.__module__ == errors.__name__:
            found += [child, *_tree(child)]
    return found


def metrics_document() -> str:
    """Returns the tables of all metrics, and of the spans."""
    parts = [
        "# Metrics and spans\n\nEach process serves `/metrics` on its `TOKENRELAY_METRICS_PORT`. vLLM's own metrics, `vllm:*`, "
        "are among the engine service's; Prometheus before 3.0 gets them as `vllm_*`.\n"
    ]
    for title, kinds in (
        ("Gateway", (metrics.CallMetrics, metrics.GatewayMetrics, metrics.ReaperMetrics, metrics.LoopMetrics)),
        ("Broker worker", (metrics.WorkerMetrics, metrics.ReaperMetrics, metrics.LoopMetrics)),
        ("Engine service", (metrics.CallMetrics, metrics.EngineMetrics, metrics.LoopMetrics)),
    ):
        registry = CollectorRegistry()
        for kind in kinds:
            kind(registry)
        collected = [
            (f"`{one.name}{'_total' if one.type == 'counter' else ''}`", one.type, one.documentation)
            for one in registry.collect()
        ]
        parts.append(f"## {title}\n\n" + _table(("metric", "type", "what"), collected))
    parts.append(_spans())
    return "\n".join(parts)


def _spans() -> str:
    rows = [
        ("`tokenrelay.v1.GenerationService/<Method>`", "client, gateway", "the call; the client's is the root if it traces"),
        ("`send <queue>`", "gateway", "storing the job (PRODUCER)"),
        (f"`{conventions.SPAN_QUEUE_WAIT}`", "worker", "accepted until claimed"),
        ("`process <queue>`", "worker", "claimed until the terminal record is written (CONSUMER)"),
        (f"`{conventions.SPAN_DISPATCH}`", "worker", "sent to the engine until in its queue; tokenization is here"),
        (f"`{conventions.SPAN_ENGINE_QUEUE}`", "engine", "in the engine's queue until scheduled"),
        (f"`{conventions.SPAN_PREFILL}`", "engine", "until the first token"),
        (f"`{conventions.SPAN_DECODE}`", "engine", "until the last token"),
        (f"`{conventions.SPAN_APPEND}`", "worker", "until all of it is in the log"),
        (f"`{conventions.SPAN_RELAY}`", "gateway", "until this reader has the end"),
        (f"`{conventions.SPAN_TAKEOVER}`", "worker", "the gap between a lost attempt and the next one's claim"),
    ]
    text = (
        "## Spans\n\nOne trace a generation, exported over OTLP when an endpoint is set. Prompts and outputs are in it only "
        "if the worker has `TOKENRELAY_LOG_CONTENT`.\n\n"
    )
    return text + _table(("span", "of", "what"), rows)


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def _table(heading: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def main() -> int:
    """Writes the documents."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
