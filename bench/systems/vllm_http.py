"""vLLM's OpenAI server: HTTP, server-sent events. And what all of vLLM's servers have in common."""

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from bench.load.measuring import Refused, Sample
from bench.load.workload import Request
from bench.processes import usage
from bench.processes.child import Child
from bench.processes.ports import free_ports

SERVED = "bench"


def engine_environment(model: str, engine_core: int | None) -> dict[str, str]:
    """Returns the variables that every system's vLLM gets."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}  # in GiB; else half of the memory
    if Path(model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"  # nothing is to be fetched
    if engine_core is not None:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = str(engine_core)
    return environment


class VllmServer:
    """One of vLLM's servers.

    Args:
        name: of its log.
        program: what is run, with what comes before the address.
        arguments: what comes after it, those of vLLM's engine among them.
        folder: for its output.
        model: a folder or a hub name.
        core: for all but vLLM's own processes; None: nothing is pinned.
        engine_core: for those.
        environment: variables of its own.
    """

    def __init__(
        self,
        name: str,
        program: Sequence[str],
        arguments: Sequence[str],
        folder: Path,
        model: str,
        core: int | None,
        engine_core: int | None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_ports()
        self._engine_core = engine_core
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = [*program, *where, *arguments]
        variables = {**engine_environment(model, engine_core), **(environment or {})}
        self.child = Child(name, command, folder, variables, core)

    async def start_until(self, serves: Callable[[], Awaitable[bool]]) -> None:
        """Starts it and returns once it serves."""

        async def look() -> bool:
            self._pin_engine()  # as they appear: on a core of their own they start sooner
            return await serves()

        await self.child.start()
        await self.child.wait_until(look)
        self._pin_engine()

    def _pin_engine(self) -> None:
        """Moves vLLM's own processes, which have inherited the server's core, to theirs."""
        if self._engine_core is not None:
            usage.pin(self.processes()["vllm"], self._engine_core)

    def processes(self) -> Mapping[str, Sequence[int]]:
        pid = self.child.pid
        return {"server": [pid], "vllm": [process.pid for process in usage.tree(pid)[1:]]}

    async def close(self) -> None:
        await self.child.close()


class VllmHttp(VllmServer):
    """One server, with the arguments that every system's engine gets."""

    name = "vLLM OpenAI server"

    def __init__(
        self, folder: Path, model: str, arguments: Sequence[str], *, core: int | None = None, engine_core: int | None = None
    ) -> None:
        program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        options = ["--served-model-name", SERVED, "--disable-uvicorn-access-log"]
        super().__init__("vllm-http", program, [*options, *arguments], folder, model, core, engine_core)

    async def start(self) -> None:
        await self.start_until(lambda: answers(f"http://127.0.0.1:{self.port}/health"))

    def target(self) -> "CompletionsTarget":
        return CompletionsTarget(f"http://127.0.0.1:{self.port}", SERVED)


async def answers(url: str) -> bool:
    """Returns whether a GET finds what it asks for."""
    async with aiohttp.ClientSession() as session:
        with suppress(aiohttp.ClientError):
            async with session.get(url) as response:
                return response.status == 200
    return False


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yields the server-sent events that are JSON objects."""
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


class CompletionsTarget:
    """A streaming client of the OpenAI completions call."""

    def __init__(self, url: str, model: str) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        self._url = f"{url}/v1/completions"
        self._model = model

    async def run(self, request: Request, sample: Sample) -> None:
        body = {
            "model": self._model,
            "prompt": request.prompt,
            "max_tokens": request.output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            # How many tokens a chunk brought: the server merges those of a client that lags.
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status != 200:
                    raise Refused(f"HTTP {response.status}")
                await self.read(response, sample)
        except aiohttp.ClientError as error:
            raise Refused(type(error).__name__) from error

    async def read(self, response: aiohttp.ClientResponse, sample: Sample) -> None:
        """Notes what an answer's events bring: each tells how many tokens there are so far."""
        seen = 0
        async for event in events(response):
            usage = event.get("usage")
            if usage and usage["completion_tokens"] > seen:
                sample.add(usage["completion_tokens"] - seen)
                seen = usage["completion_tokens"]

    async def close(self) -> None:
        await self._session.close()
