"""vLLM's gRPC server, whose servicer and stubs come with smg-grpc-servicer and smg-grpc-proto."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2, vllm_engine_pb2_grpc

from bench.load.measuring import Refused, Sample
from bench.load.workload import Request
from bench.systems.vllm_http import VllmServer

PATIENCE = 5.0  # seconds for one look at its health


class VllmGrpc(VllmServer):
    """One server, with the arguments that every system's engine gets."""

    name = "vLLM gRPC server"

    def __init__(
        self, folder: Path, model: str, arguments: Sequence[str], *, core: int | None = None, engine_core: int | None = None
    ) -> None:
        program = [sys.executable, "-m", "vllm.entrypoints.launchers.grpc_server", "--model", model]
        super().__init__("vllm-grpc", program, arguments, folder, model, core, engine_core)

    async def start(self) -> None:
        await self.start_until(self._serves)

    async def _serves(self) -> bool:
        """Asks the standard health service: it is the one that says no while the servicer warms up by itself."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            with suppress(grpc.aio.AioRpcError):
                stub = health_pb2_grpc.HealthStub(channel)
                health = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
                return bool(health.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def target(self) -> "VllmGrpcTarget":
        return VllmGrpcTarget(self.address)


class VllmGrpcTarget:
    """A client with the generated stub and nothing else."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = vllm_engine_pb2_grpc.VllmEngineStub(self._channel)
        self._numbers = count(1)

    async def run(self, request: Request, sample: Sample) -> None:
        try:
            async for response in self._stub.Generate(_message(request, f"bench-{next(self._numbers)}")):
                # The last message repeats the last chunk's tokens, so only chunks count.
                if response.WhichOneof("response") == "chunk":
                    sample.add(len(response.chunk.token_ids))
                    sample.cached_tokens = response.chunk.cached_tokens
        except grpc.aio.AioRpcError as error:
            raise Refused(error.code().name) from error

    async def close(self) -> None:
        await self._channel.close()


def _message(request: Request, name: str) -> "vllm_engine_pb2.GenerateRequest":
    # The fields without presence have to be set: their zero is taken as it is.
    parameters = vllm_engine_pb2.SamplingParams(
        temperature=0.0, top_p=1.0, repetition_penalty=1.0, n=1, max_tokens=request.output_tokens, ignore_eos=True
    )
    message = vllm_engine_pb2.GenerateRequest(request_id=name, sampling_params=parameters, stream=True)
    if isinstance(request.prompt, str):
        message.text = request.prompt
    else:
        message.tokenized.input_ids.extend(request.prompt)
    return message
