"""Prometheus metrics of each process; conventional names where there are any.

The library is prometheus-client, by Prometheus' own makers. Metrics are created in a registry that is passed in, so that
a test has its own. What is counted for every call or generation keeps its children: to look one up by its labels takes
the library several times as long as to count.
"""

import asyncio
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from tokenrelay import conventions


def new_registry() -> CollectorRegistry:
    """Returns a registry that already knows the process' memory, CPU and file descriptors."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class LoopMetrics:
    """The event loop that a process lives on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tasks = Gauge(
            "tokenrelay_asyncio_tasks", "Tasks of the event loop; they come and go with the work", registry=registry
        )

    def watch(self) -> None:
        """Counts the running loop's tasks whenever somebody asks."""
        loop = asyncio.get_running_loop()
        self.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))


class CallMetrics:
    """gRPC calls of a server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "rpc_server_call_duration_seconds",
            "Time from a call's arrival to its end",
            ["rpc_method", "rpc_response_status_code"],
            buckets=conventions.DURATION_BUCKETS,
            registry=registry,
        )
        self.open = Gauge("tokenrelay_open_calls", "Calls that are being served", ["rpc_method"], registry=registry)
        self.refusals = Counter(
            "tokenrelay_refusals_total", "Calls that ended with an error, by its reason", ["reason"], registry=registry
        )
        self.duration_of = cache(self.duration.labels)
        self.open_of = cache(self.open.labels)


class GatewayMetrics:
    """What a gateway sees of generations and queues."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.accepted = Counter(
            "messaging_client_sent_messages_total",
            "Generations that were put into a queue",
            ["messaging_destination_name"],
            registry=registry,
        )
        self.submit = Histogram(
            "messaging_client_operation_duration_seconds",
            "Time to store a generation durably",
            ["messaging_operation_name"],
            buckets=conventions.SHORT_BUCKETS,
            registry=registry,
        )
        self.relay = Histogram(
            "tokenrelay_relay_seconds",
            "Time from a terminal record's being written to its reader's having it",
            buckets=conventions.SHORT_BUCKETS,
            registry=registry,
        )
        self.followers = Gauge("tokenrelay_followers", "Readers that follow a token log here", registry=registry)
        self.queued = Gauge("tokenrelay_queue_generations", "Generations that wait for a worker", ["model"], registry=registry)
        self.queued_bytes = Gauge("tokenrelay_queue_bytes", "Bytes of requests that wait", ["model"], registry=registry)
        self.queue_age = Gauge(
            "tokenrelay_queue_age_seconds", "How long the oldest one has waited", ["model"], registry=registry
        )
        self.workers = Gauge("tokenrelay_workers", "Live workers", ["model"], registry=registry)
        self.store_up = Gauge("tokenrelay_store_up", "Whether Redis answers", registry=registry)
        self.accepted_of = cache(self.accepted.labels)
        self.submit_of = cache(self.submit.labels)


class ReaperMetrics:
    """What reap did here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reaped = Counter(
            "tokenrelay_reaped_total",
            "Generations that time decided about, by decision",
            ["decision"],
            registry=registry,
        )


class WorkerMetrics:
    """What a broker worker does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from a generation's being received to its terminal record",
            ["gen_ai_request_model", "error_type"],
            buckets=conventions.DURATION_BUCKETS,
            registry=registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a generation's being received to its first token's being in the log",
            ["gen_ai_request_model"],
            buckets=conventions.FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time per token after the first, in the engine",
            ["gen_ai_request_model"],
            buckets=conventions.PER_TOKEN_BUCKETS,
            registry=registry,
        )
        self.hops = Histogram(
            "tokenrelay_hop_seconds",
            "Time of each hop of finished generations",
            ["hop"],
            buckets=(*conventions.SHORT_BUCKETS, 10.0, 30.0, 60.0),
            registry=registry,
        )
        self.append = Histogram(
            "tokenrelay_append_seconds",
            "Time to write a frame durably",
            buckets=conventions.SHORT_BUCKETS,
            registry=registry,
        )
        self.frame_tokens = Histogram(
            "tokenrelay_frame_tokens",
            "Tokens in a frame",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self.tokens = Counter("tokenrelay_tokens_total", "Tokens that were written to logs", registry=registry)
        self.finished = Counter("tokenrelay_generations_total", "Generations that ended here", ["state"], registry=registry)
        self.consumed = Counter(
            "messaging_client_consumed_messages_total", "Generations that were claimed from a queue", registry=registry
        )
        self.takeovers = Counter("tokenrelay_takeovers_total", "Generations that another worker had begun", registry=registry)
        self.fenced = Counter("tokenrelay_fenced_total", "Generations that were lost to another worker", registry=registry)
        self.dead_letters = Counter(
            "tokenrelay_dead_letters_total",
            "Generations that were set aside, since their engine died on them",
            registry=registry,
        )
        self.running = Gauge("tokenrelay_running", "Generations that run here", registry=registry)
        self.prefetched = Gauge("tokenrelay_prefetched", "Generations that were read and wait for a slot", registry=registry)
        self.slots = Gauge("tokenrelay_slots", "Choices that the engine can generate at a time", registry=registry)
        self.engine_up = Gauge("tokenrelay_engine_up", "Whether the engine service answers", registry=registry)
        self.duration_of = cache(self.duration.labels)
        self.first_token_of = cache(self.first_token.labels)
        self.per_token_of = cache(self.per_token.labels)
        self.hops_of = cache(self.hops.labels)
        self.finished_of = cache(self.finished.labels)


class EngineMetrics:
    """What an engine service does; vLLM adds its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge("tokenrelay_engine_running", "Generations that run here", registry=registry)
        self.tokens = Counter("tokenrelay_engine_tokens_total", "Tokens that were generated", registry=registry)
        self.frames = Counter("tokenrelay_engine_frames_total", "Frames that were sent", registry=registry)
        self.cancelled = Counter("tokenrelay_engine_cancelled_total", "Generations that were cancelled", registry=registry)
