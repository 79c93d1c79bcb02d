"""What a setting asks for cannot be had: status 2 and a line that names it, or waiting that says for what."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.settings import ROOT
from tests.support.redis_server import RedisServer
from tokenrelay.v1.generation_service_pb2 import GenerateRequest
from tokenrelay.v1.generation_service_pb2_grpc import GenerationServiceStub

# What is run, and the variables that go with it.
PROGRAMS: dict[str, tuple[str, dict[str, str]]] = {
    "gateway on grpcio": ("gateway", {"TOKENRELAY_EDGE": "grpcio"}),
    "gateway on envoy": ("gateway", {"TOKENRELAY_EDGE": "envoy"}),
    "worker": ("broker_worker", {}),
    "engine service": ("engine_service", {}),
    "command line": ("tokenrelay.client.command_line", {}),
}
GATEWAYS = ("gateway on grpcio", "gateway on envoy")
PROCESSES = (*GATEWAYS, "worker", "engine service")
SIMULATED = {
    "TOKENRELAY_ENGINE": "simulated",
    "TOKENRELAY_MODEL": "test",
    "TOKENRELAY_LOG_FORMAT": "json",
    "TOKENRELAY_ALLOW_ANONYMOUS_NETWORK": "true",
}
NOT_OURS = ("192.0.2.1", "2001:db8::1", "no such host")
PATIENCE = 30.0  # seconds; a start takes one or two


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, **SIMULATED, "TOKENRELAY_PORT": "0", **variables}


def run(program: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """Returns how a program ends that cannot start, and what it says."""
    module, own = PROGRAMS[program]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(**own, **variables),
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stderr


@contextmanager
def running(program: str, until: str, **variables: str) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """Runs a program; enters once it has said something. Yields its process and the lines that it has said."""
    module, own = PROGRAMS[program]
    with subprocess.Popen(
        [sys.executable, "-m", module], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(**own, **variables)
    ) as process:
        said, found = [], threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                if until in line:
                    found.set()

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        try:
            assert found.wait(PATIENCE), "".join(said)
            yield process, said
        finally:
            process.kill()
            reading.join()


@contextmanager
def listening(answer: bytes = b"") -> Iterator[int]:
    """Listens on a port; answers whatever comes with some bytes, or never."""
    with ExitStack() as kept, socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.enter_context(connection)
                if answer:
                    connection.recv(4096)
                    connection.sendall(answer)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        serving.join()


@pytest.mark.parametrize(
    ("program", "host"),
    [
        ("engine service", "127.0.0.1"),
        *product(GATEWAYS, ("127.0.0.1", "192.0.2.1", "2001:db8::1", "no such host")),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_named(program: str, host: str) -> None:
    with listening() as port:
        status, said = run(program, TOKENRELAY_HOST=host, TOKENRELAY_PORT=str(port))
    assert status == 2
    # gRPC has a line of its own before.
    assert "\nTOKENRELAY_HOST, TOKENRELAY_PORT: cannot listen on " in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("program", "host"),
    [
        *product(PROCESSES, ("127.0.0.1",)),
        *product(GATEWAYS, ("2001:db8::1", "no such host", "a" * 70)),
    ],
)
def test_a_metrics_address_that_cannot_be_listened_on_is_named(program: str, host: str) -> None:
    with listening() as port:
        status, said = run(program, TOKENRELAY_METRICS_HOST=host, TOKENRELAY_METRICS_PORT=str(port))
    assert status == 2
    # A gateway's first line says which edge was chosen.
    assert any(
        line.startswith("TOKENRELAY_METRICS_HOST, TOKENRELAY_METRICS_PORT: cannot listen on ") for line in said.split("\n")
    )
    assert "Traceback" not in said


@pytest.mark.parametrize("program", [*GATEWAYS, "worker"])
def test_a_redis_that_refuses_the_password_is_named(program: str, redis: RedisServer) -> None:
    url = redis.url.replace("unix://", "unix://nobody:secret@")
    status, said = run(program, TOKENRELAY_REDIS_URL=url)
    assert status == 2
    assert "\nTOKENRELAY_REDIS_URL: redis refuses the user name or password" in said
    assert "Traceback" not in said
    assert "secret" not in said


@pytest.mark.parametrize("program", [*GATEWAYS, "worker"])
def test_what_is_no_redis_is_named(program: str) -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        status, said = run(program, TOKENRELAY_REDIS_URL=f"redis://127.0.0.1:{port}")
    assert status == 2
    assert "\nTOKENRELAY_REDIS_URL: what answers there does not speak Redis' protocol\n" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("program", [*GATEWAYS, "worker"])
@pytest.mark.parametrize("answers", [True, False], ids=["silence", "refusal"])
def test_a_redis_that_does_not_answer_is_waited_for_and_named(program: str, answers: bool) -> None:
    with listening() as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        port = silent if answers else closed.getsockname()[1]
        closed.close()
        with running(program, "waiting for redis", TOKENRELAY_REDIS_URL=f"redis://127.0.0.1:{port}") as (process, said):
            assert process.poll() is None
            assert "Traceback" not in "".join(said)


def test_a_worker_says_that_it_waits_for_its_engine(redis: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with running(
        "worker",
        f"127.0.0.1:{port}",
        TOKENRELAY_REDIS_URL=redis.url,
        TOKENRELAY_ENGINE_ADDRESS=f"127.0.0.1:{port}",
    ) as (process, said):
        assert process.poll() is None
        assert "Traceback" not in "".join(said)


@pytest.mark.parametrize("program", GATEWAYS)
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_a_gateway_serves_over_ipv6(redis: RedisServer, program: str, host: str) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        metrics_port = free.getsockname()[1]
    with running(
        program,
        '"ready"',
        TOKENRELAY_REDIS_URL=redis.url,
        TOKENRELAY_HOST=host,
        TOKENRELAY_METRICS_HOST=host,
        TOKENRELAY_METRICS_PORT=str(metrics_port),
    ) as (_, said):
        (port,) = [part.split(",")[0].rstrip("}\n ") for line in said for part in line.split('"port": ')[1:]]
        with grpc.insecure_channel(f"[::1]:{port}") as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        with socket.create_connection(("::1", metrics_port), PATIENCE) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert connection.recv(12).startswith(b"HTTP/1.0 200")


@pytest.mark.parametrize("program", GATEWAYS)
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("collector", ["refused", "silent"])
def test_a_dead_collector_delays_no_exit(redis: RedisServer, program: str, protocol: str, collector: str) -> None:
    with listening() as silent:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = silent if collector == "silent" else closed.getsockname()[1]
        variables = {
            "TOKENRELAY_REDIS_URL": redis.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": protocol,
        }
        with running(program, '"ready"', **variables) as (process, said):
            (port,) = [int(part.split(",")[0].rstrip("}\n ")) for line in said for part in line.split('"port": ')[1:]]
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError):
                # A call whose span waits for its export.
                GenerationServiceStub(channel).Generate(GenerateRequest(), timeout=PATIENCE)
            process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            assert process.wait(PATIENCE) == 0
            # The two seconds that spans get, and what a busy machine adds; without a bound it takes 12 to 19 s.
            assert time.monotonic() - begun < 9.0
        assert "Traceback" not in "".join(said)


@pytest.mark.parametrize("program", [*PROCESSES, "command line"])
def test_an_exporter_that_refuses_its_settings_is_named(program: str) -> None:
    arguments = ("models",) if program == "command line" else ()
    status, said = run(
        program,
        *arguments,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317",
        OTEL_EXPORTER_OTLP_COMPRESSION="smoke",
    )
    assert status == 2
    assert "OTEL_EXPORTER_OTLP_*: the exporter refuses them: " in said
    assert "Traceback" not in said
