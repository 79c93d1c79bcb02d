"""This stack: Redis, an engine service with its worker for each engine, and gateways."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import grpc

from bench.load.measuring import Refused, Sample
from bench.load.workload import Request
from bench.processes import usage
from bench.processes.child import Child
from bench.processes.ports import free_ports
from deploy.local import plan
from deploy.local.machine import Machine
from deploy.local.settings import StackSettings
from tokenrelay.timings import hop_name, milliseconds
from tokenrelay.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)

OURS = ("gateway", "worker", "engine", "redis")
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)  # else channels to the same address share one


class Tokenrelay:
    """The processes of `make up`, without a trace receiver unless spans are to be exported.

    Args:
        folder: for Redis' data and the processes' output.
        core: for all of our processes, if vLLM's are pinned to `engine_core`; None: nothing is pinned.
        environment: variables for all of our processes.
        connections: of each client to each gateway.
        settings: as for `make up`.
    """

    name = "Tokenrelay"

    def __init__(
        self,
        folder: Path,
        *,
        core: int | None = None,
        engine_core: int | None = None,
        tracing: bool = False,
        environment: Mapping[str, str] | None = None,
        connections: int = 1,
        **settings: object,
    ) -> None:
        self.settings = StackSettings(**{"state": folder, "port": free_ports(), **settings})
        self._engine_core = engine_core
        self._connections = connections
        self._children: list[Child] = []
        self._planned = plan.processes(self.settings, Machine.this())
        for process in self._planned:
            if process.folder is not None:
                process.folder.mkdir(parents=True, exist_ok=True)
            if process.name == "traces" and not tracing:
                continue
            # As where it is deployed: logs for programs, and spans exported as seldom as the SDK does by itself.
            variables = {**process.environment, "TOKENRELAY_LOG_FORMAT": "json", **(environment or {})}
            left_out = "OTEL_BSP_" if tracing else "OTEL_"
            variables = {name: value for name, value in variables.items() if not name.startswith(left_out)}
            if engine_core is not None:
                variables["TOKENRELAY_ENGINE_CORE_CPUS"] = str(engine_core)
                variables["VLLM_CPU_OMP_THREADS_BIND"] = str(engine_core)
            self._children.append(Child(process.name, process.command, folder, variables, core))

    @property
    def targets(self) -> list[str]:
        return plan.gateway_targets(self.settings).split(",")

    def metrics_ports(self, kind: str) -> list[int]:
        """Returns where the processes of a kind show their metrics."""
        return [one.ports[-1] for one in self._planned if one.name.partition("-")[0] == kind]

    async def start(self) -> None:
        for child in self._children:
            await child.start()
        for target in self.targets:
            await self._children[-1].wait_until(lambda target=target: self._serves(target))  # type: ignore[misc]
        if self._engine_core is not None:
            usage.pin(self.processes()["vllm"], self._engine_core)

    async def _serves(self, target: str) -> bool:
        async with grpc.aio.insecure_channel(target) as channel:
            stub: model_service_pb2_grpc.ModelServiceAsyncStub = model_service_pb2_grpc.ModelServiceStub(channel)
            with suppress(grpc.aio.AioRpcError):
                models = (await stub.ListModels(model_service_pb2.ListModelsRequest())).models
                return sum(model.workers for model in models) >= self.settings.workers
        return False

    def processes(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {name: [] for name in (*OURS, "vllm")}
        for child in self._children:
            kind = child.name.partition("-")[0]
            found.setdefault(kind, []).append(child.pid)
            # What an engine service starts is vLLM's and no cost of ours; what any other starts does that one's work.
            found["vllm" if kind == "engine" else kind] += [process.pid for process in usage.tree(child.pid)[1:]]
        return found

    def target(self) -> "TokenrelayTarget":
        return TokenrelayTarget(self.targets, self._connections)

    async def close(self) -> None:
        for child in reversed(self._children):
            await child.close()


class TokenrelayTarget:
    """A client with a generated stub and nothing else; of several gateways and connections it uses one after the other."""

    def __init__(self, targets: Sequence[str], connections: int = 1) -> None:
        self._channels = [
            grpc.aio.insecure_channel(target, options=OWN_CONNECTION) for _ in range(connections) for target in targets
        ]
        self._stubs = [generation_service_pb2_grpc.GenerationServiceStub(channel) for channel in self._channels]
        self._calls = 0

    async def run(self, request: Request, sample: Sample) -> None:
        stub = self._stubs[self._calls % len(self._stubs)]
        self._calls += 1
        try:
            async for response in stub.GenerateStream(_message(request)):
                event = response.event
                kind = event.WhichOneof("event")
                if kind == "delta":
                    sample.add(len(event.delta.token_ids))
                elif kind == "finished":
                    _note_end(event.finished, sample)
        except grpc.aio.AioRpcError as error:
            raise Refused(error.code().name) from error

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


def _message(request: Request) -> generation_service_pb2.GenerateStreamRequest:
    parameters = generation_pb2.SamplingParams(temperature=0.0, max_tokens=request.output_tokens, ignore_eos=True)
    spec = generation_pb2.GenerationSpec(sampling_params=parameters)
    if isinstance(request.prompt, str):
        spec.text = request.prompt
    else:
        spec.token_ids.ids.extend(request.prompt)
    return generation_service_pb2.GenerateStreamRequest(spec=spec)


def _note_end(finished: generation_pb2.Finished, sample: Sample) -> None:
    sample.cached_tokens = finished.usage.cached_tokens
    for hop in finished.timings.hops:
        name = hop_name(hop.kind)
        sample.hops[name] = sample.hops.get(name, 0.0) + milliseconds(hop.duration)
