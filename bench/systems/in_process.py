"""vLLM's AsyncLLM within the client itself: what no server can be better than. One of two modules that import vLLM."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import psutil
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from bench.load.measuring import Refused, Sample
from bench.load.workload import Request
from bench.processes import usage


class InProcess:
    """One engine whose front half runs in this process, which so counts as the client's.

    The process has to be one of its own, with vLLM's variables set: see bench.systems.vllm_http.engine_environment.
    """

    name = "AsyncLLM in the client"

    def __init__(
        self, _folder: Path, model: str, arguments: Sequence[str], *, core: int | None = None, engine_core: int | None = None
    ) -> None:
        self._core, self._engine_core = core, engine_core
        parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
        command_line = ["--model", model, *arguments]
        self._arguments = AsyncEngineArgs.from_cli_args(parser.parse_args(command_line))
        self._llm: AsyncLLM | None = None

    async def start(self) -> None:
        self._llm = AsyncLLM.from_engine_args(self._arguments)
        if self._core is not None:
            usage.pin([psutil.Process().pid], self._core)
        if self._engine_core is not None:
            usage.pin(self.processes()["vllm"], self._engine_core)

    def processes(self) -> Mapping[str, Sequence[int]]:
        return {"vllm": [process.pid for process in psutil.Process().children(recursive=True)]}

    def target(self) -> "InProcessTarget":
        assert self._llm is not None, "it is asked for after start"
        return InProcessTarget(self._llm)

    async def close(self) -> None:
        if self._llm is None:
            return
        started = psutil.Process().children(recursive=True)
        await asyncio.to_thread(self._llm.shutdown)
        _, alive = await asyncio.to_thread(psutil.wait_procs, started, 10)
        for process in alive:
            process.kill()


class InProcessTarget:
    """Asks the engine itself."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._numbers = count(1)

    async def run(self, request: Request, sample: Sample) -> None:
        parameters = SamplingParams(
            temperature=0.0, max_tokens=request.output_tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA
        )
        given = request.prompt
        prompt = given if isinstance(given, str) else TokensPrompt(prompt_token_ids=list(given))
        try:
            async for output in self._llm.generate(prompt, parameters, f"bench-{next(self._numbers)}"):
                sample.add(len(output.outputs[0].token_ids))
        except EngineDeadError as error:
            raise Refused("engine dead") from error

    async def close(self) -> None:
        """Has no connections."""
