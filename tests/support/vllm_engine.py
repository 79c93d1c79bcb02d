"""A worker's side of a real vLLM engine service: starts one, and reads what it generates."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes.ports import free_ports
from tests.support.local_stack import ROOT
from tokenrelay.engine.v1 import engine_service_pb2 as e
from tokenrelay.engine.v1 import engine_service_pb2_grpc
from tokenrelay.errors import InvalidRequestError
from tokenrelay.status import from_status
from tokenrelay.v1 import generation_pb2 as g

PATIENCE = 60  # seconds for an answer
HELLO = [1958, 644]  # "Hello world"


@contextmanager
def vllm_engine(log: Path) -> Iterator[int]:
    """Runs an engine service with the demo model; yields its port once it serves."""
    port = free_ports()
    settings = {"TOKENRELAY_MODEL": "models/demo", "TOKENRELAY_PORT": str(port), "TOKENRELAY_LOG_LEVEL": "warning"}
    environment = {**os.environ, **settings, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        command = [sys.executable, "-m", "engine_service"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_serving(process, port)
            yield port
        finally:
            process.kill()
            process.wait()


def wait_until_serving(process: "subprocess.Popen[bytes]", port: int) -> None:
    with closing(grpc.insecure_channel(f"127.0.0.1:{port}")) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            assert process.poll() is None, "the engine has ended"
            try:
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass  # it does not listen yet
            time.sleep(0.1)


@dataclass
class Answer:
    """What came of one generation."""

    token_ids: dict[int, list[int]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    deltas: list[g.Delta] = field(default_factory=list)
    summary: e.EngineSummary | None = None
    error: InvalidRequestError | None = None

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def fields(self) -> list[str]:
        assert self.error is not None, self
        assert type(self.error) is InvalidRequestError, self.error
        return [violation.field for violation in self.error.violations]


class Engine:
    """A worker's side of an engine service."""

    def __init__(self, channel: Any) -> None:
        self._stub: Any = engine_service_pb2_grpc.EngineServiceStub(channel)

    async def generate(self, spec: g.GenerationSpec, *emitted: e.EmittedChoice) -> Answer:
        call, answer = self._stub.RunSession(), Answer()
        start = e.StartGeneration(key=1, generation_id="gen-1", spec=spec.SerializeToString(), emitted=emitted)
        await call.write(e.RunSessionRequest(starts=[start]))
        while True:
            frame = await asyncio.wait_for(call.read(), PATIENCE)
            assert frame is not grpc.aio.EOF
            for output in frame.outputs:
                delta = g.Delta.FromString(output.delta)
                answer.deltas.append(delta)
                answer.token_ids.setdefault(output.index, []).extend(delta.token_ids)
                answer.texts[output.index] = answer.texts.get(output.index, "") + delta.text
                if output.HasField("error"):
                    error = from_status(output.error)
                    assert isinstance(error, InvalidRequestError), error
                    answer.error = error
                if output.HasField("summary"):
                    answer.summary = output.summary
            await call.write(e.RunSessionRequest(acknowledged_frame=frame.frame))
            if answer.error is not None or answer.summary is not None:
                await call.done_writing()
                return answer

    async def sample(self, **params: Any) -> Answer:
        return await self.generate(tokens(HELLO, **params))


def tokens(ids: list[int], **params: Any) -> g.GenerationSpec:
    """Returns a greedy request of a few tokens."""
    return g.GenerationSpec(
        token_ids=g.TokenIds(ids=ids), sampling_params=g.SamplingParams(**{"temperature": 0, "max_tokens": 20, **params})
    )
