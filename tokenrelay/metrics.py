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
            "tokenrelay_asyncio_tasks",
            "asyncio tasks in the process; the number follows the number of open calls and generations",
            registry=registry,
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
            "Duration of a gRPC call, from its arrival to its status",
            ["rpc_method", "rpc_response_status_code"],
            buckets=conventions.DURATION_BUCKETS,
            registry=registry,
        )
        self.open = Gauge("tokenrelay_open_calls", "gRPC calls that are open now", ["rpc_method"], registry=registry)
        self.refusals = Counter(
            "tokenrelay_refusals_total",
            "gRPC calls that ended with an error, by ErrorInfo's reason, or by the status code if there is none",
            ["reason"],
            registry=registry,
        )
        self.duration_of = cache(self.duration.labels)
        self.open_of = cache(self.open.labels)


class GatewayMetrics:
    """What a gateway sees of generations and queues."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.accepted = Counter(
            "messaging_client_sent_messages_total",
            "Generations stored and queued by this gateway",
            ["messaging_destination_name"],
            registry=registry,
        )
        self.submit = Histogram(
            "messaging_client_operation_duration_seconds",
            "Duration of storing and queueing one generation in Redis",
            ["messaging_operation_name"],
            buckets=conventions.SHORT_BUCKETS,
            registry=registry,
        )
        self.relay = Histogram(
            "tokenrelay_relay_seconds",
            "Delay from writing the terminal record to delivering it to a reader",
            buckets=conventions.SHORT_BUCKETS,
            registry=registry,
        )
        self.followers = Gauge(
            "tokenrelay_followers", "Readers that follow a token log through this gateway", registry=registry
        )
        self.queued = Gauge(
            "tokenrelay_queue_generations", "Generations that are queued, by model", ["model"], registry=registry
        )
        self.queued_bytes = Gauge(
            "tokenrelay_queue_bytes", "Bytes of the queued requests, by model", ["model"], registry=registry
        )
        self.queue_age = Gauge(
            "tokenrelay_queue_age_seconds", "Age of the oldest queued generation, by model", ["model"], registry=registry
        )
        self.workers = Gauge(
            "tokenrelay_workers",
            "Workers that have announced themselves within the last seconds, by model",
            ["model"],
            registry=registry,
        )
        self.store_up = Gauge("tokenrelay_store_up", "1 if Redis answers, else 0", registry=registry)
        self.accepted_of = cache(self.accepted.labels)
        self.submit_of = cache(self.submit.labels)


class ReaperMetrics:
    """What reap did here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reaped = Counter(
            "tokenrelay_reaped_total",
            "Generations expired, cancelled, requeued or dropped by the reaper, by decision",
            ["decision"],
            registry=registry,
        )


class WorkerMetrics:
    """What a broker worker does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Duration of a generation, from the gateway's receiving it to its terminal record",
            ["gen_ai_request_model", "error_type"],
            buckets=conventions.DURATION_BUCKETS,
            registry=registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from the gateway's receiving a generation to its first token in the token log",
            ["gen_ai_request_model"],
            buckets=conventions.FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time per output token after the first, measured in the engine",
            ["gen_ai_request_model"],
            buckets=conventions.PER_TOKEN_BUCKETS,
            registry=registry,
        )
        self.hops = Histogram(
            "tokenrelay_hop_seconds",
            "Duration of each hop of a finished generation, by hop",
            ["hop"],
            buckets=(*conventions.SHORT_BUCKETS, 10.0, 30.0, 60.0),
            registry=registry,
        )
        self.append = Histogram(
            "tokenrelay_append_seconds",
            "Duration of appending one frame of tokens to the token logs",
            buckets=conventions.SHORT_BUCKETS,
            registry=registry,
        )
        self.frame_tokens = Histogram(
            "tokenrelay_frame_tokens",
            "Tokens in one frame from the engine",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self._add_counts(registry)
        self.duration_of = cache(self.duration.labels)
        self.first_token_of = cache(self.first_token.labels)
        self.per_token_of = cache(self.per_token.labels)
        self.hops_of = cache(self.hops.labels)
        self.finished_of = cache(self.finished.labels)

    def _add_counts(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter("tokenrelay_tokens_total", "Tokens appended to token logs", registry=registry)
        self.finished = Counter(
            "tokenrelay_generations_total",
            "Generations finished by this worker, by terminal state",
            ["state"],
            registry=registry,
        )
        self.consumed = Counter(
            "messaging_client_consumed_messages_total", "Generations claimed by this worker", registry=registry
        )
        self.takeovers = Counter(
            "tokenrelay_takeovers_total",
            "Generations continued by this worker after another worker lost them",
            registry=registry,
        )
        self.fenced = Counter(
            "tokenrelay_fenced_total", "Generations that another worker took over from this one", registry=registry
        )
        self.dead_letters = Counter(
            "tokenrelay_dead_letters_total",
            "Generations dead-lettered because the engine crashed on them twice",
            registry=registry,
        )
        self.running = Gauge("tokenrelay_running", "Generations that run on this worker's engine", registry=registry)
        self.prefetched = Gauge(
            "tokenrelay_prefetched",
            "Generations read from the queue that wait for a free slot of the engine",
            registry=registry,
        )
        self.slots = Gauge("tokenrelay_slots", "Choices that the engine can generate at a time", registry=registry)
        self.engine_up = Gauge("tokenrelay_engine_up", "1 if the engine service answers, else 0", registry=registry)


class EngineMetrics:
    """What an engine service does; vLLM adds its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge("tokenrelay_engine_running", "Generations that the engine is working on", registry=registry)
        self.tokens = Counter("tokenrelay_engine_tokens_total", "Tokens generated by the engine", registry=registry)
        self.frames = Counter("tokenrelay_engine_frames_total", "Frames of tokens sent to workers", registry=registry)
        self.cancelled = Counter(
            "tokenrelay_engine_cancelled_total", "Generations cancelled while the engine worked on them", registry=registry
        )
