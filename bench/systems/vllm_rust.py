"""vLLM's frontend in Rust before its engine in Python: HTTP, server-sent events, the calls of its OpenAI server."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes.child import DidNotStartError
from bench.systems import vllm_rs_binary
from bench.systems.vllm_http import SERVED, CompletionsTarget, VllmServer, answers


class VllmRust(VllmServer):
    """One server, with the arguments that every system's engine gets. The engine in Python is a process that it starts."""

    name = "vLLM Rust frontend"

    def __init__(
        self, folder: Path, model: str, arguments: Sequence[str], *, core: int | None = None, engine_core: int | None = None
    ) -> None:
        program = vllm_rs_binary.installed()
        if program is None:
            raise DidNotStartError("vllm-rs is not there: it is fetched by a comparison that names vllm-rust")
        # It takes the first python3 of the path for the engine.
        path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
        super().__init__(
            "vllm-rust",
            [str(program), "serve", model, "--served-model-name", SERVED],
            ["--", *arguments],
            folder,
            model,
            core,
            engine_core,
            {**path, **vllm_rs_binary.environment()},
        )

    async def start(self) -> None:
        await self.start_until(lambda: answers(f"http://127.0.0.1:{self.port}/health"))

    def target(self) -> CompletionsTarget:
        return CompletionsTarget(f"http://127.0.0.1:{self.port}", SERVED)
