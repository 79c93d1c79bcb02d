"""SMG, a gateway in Rust with an OpenAI-compatible HTTP front, before a gRPC server of vLLM's of its own."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
from tokenizers import Tokenizer

from bench.load.measuring import Refused, Sample
from bench.load.workload import Request
from bench.processes.child import Child
from bench.processes.ports import free_ports
from bench.systems.vllm_grpc import VllmGrpc
from bench.systems.vllm_http import CompletionsTarget, events

COMMAND = Path(sys.executable).with_name("smg")


def command() -> str | None:
    """Returns where SMG is installed, if it is: beside this Python or on the path."""
    return str(COMMAND) if COMMAND.exists() else shutil.which("smg")


class Smg:
    """The gateway with one worker."""

    name = "SMG and vLLM gRPC server"

    def __init__(
        self, folder: Path, model: str, arguments: Sequence[str], *, core: int | None = None, engine_core: int | None = None
    ) -> None:
        self._worker = VllmGrpc(folder, model, arguments, core=core, engine_core=engine_core)
        self._model = model
        self._port = free_ports()
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--prometheus-port", str(self._port + 1)]
        parts = ["--worker-urls", f"grpc://{self._worker.address}", "--model-path", model, "--tokenizer-path", model]
        options = ["--worker-startup-check-interval", "1", "--log-level", "warn"]
        self._gateway = Child("smg", [command() or "smg", "launch", *where, *parts, *options], folder, {}, core)

    async def start(self) -> None:
        await self._worker.start()
        await self._gateway.start()
        await self._gateway.wait_until(self._serves)

    async def _serves(self) -> bool:
        """It is up before it has its worker, so it is asked for a token."""
        target = self.target()
        sample = Sample(0.0)
        try:
            await target.run(Request("a", 1), sample)
        except Refused:
            return False
        finally:
            await target.close()
        return sample.tokens == 1

    def processes(self) -> Mapping[str, Sequence[int]]:
        return {"gateway": [self._gateway.pid], **self._worker.processes()}

    def target(self) -> "SmgTarget":
        return SmgTarget(f"http://127.0.0.1:{self._port}", self._model)

    async def close(self) -> None:
        await self._gateway.close()
        await self._worker.close()


class SmgTarget(CompletionsTarget):
    """A client of its completions call, which takes text alone and tells how many tokens there were at the end alone."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url, model)
        file = Path(model) / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_pretrained(model)

    async def run(self, request: Request, sample: Sample) -> None:
        """Asks with the text of the token ids, which is about as many tokens."""
        prompt = request.prompt if isinstance(request.prompt, str) else self._tokenizer.decode(request.prompt)
        await super().run(Request(prompt, request.output_tokens), sample)

    async def read(self, response: aiohttp.ClientResponse, sample: Sample) -> None:
        """Notes one token for each event but the last; those more that were in merged events, with the last of them."""
        async for event in events(response):
            if any(choice["finish_reason"] is None for choice in event["choices"]):
                sample.add(1)
            usage = event.get("usage")
            if usage:
                instant, tokens = sample.chunks.pop() if sample.chunks else (time.monotonic(), 0)
                sample.chunks.append((instant, tokens + usage["completion_tokens"] - sample.tokens - tokens))
