"""The systems that can be compared, by the names that SYSTEMS takes. What is not installed is not imported."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.systems import System, vllm_rs_binary
from bench.systems.tokenrelay import Tokenrelay

BASELINE = "vllm-http"
STANDARD = ("tokenrelay", BASELINE, "vllm-rust", "vllm-grpc", "smg", "in-process")
NAMES = (*STANDARD, "tokenrelay-traced")
ENGINE_ARGUMENTS = "--max-model-len 2048 --enforce-eager --dtype bfloat16"
GRPC_PACKAGES = ("smg_grpc_servicer", "smg_grpc_proto")


@dataclass(frozen=True)
class Setup:
    """What all systems get alike.

    Attributes:
        folder: for what the processes write.
        model: a local folder or a hub name.
        vllm_args: the engine's, as on a command line.
        core: for all but vLLM's own processes; None: nothing is pinned.
        engine_core: for those.
        connections: of Tokenrelay's client.
        edge: what serves in Tokenrelay's gateway; None: its default.
    """

    folder: Path
    model: str
    vllm_args: str = ENGINE_ARGUMENTS
    core: int | None = None
    engine_core: int | None = None
    connections: int = 1
    edge: str | None = None


def baseline(systems: Sequence[str]) -> str:
    """Returns the one that others are set in relation to: vLLM's OpenAI server, or without it the first."""
    return BASELINE if BASELINE in systems or not systems else systems[0]


def missing(name: str) -> str:
    """Returns what would have to be installed for a system; "" if all is there."""
    if name == "vllm-rust":
        return "" if vllm_rs_binary.installed() else "vllm-rs, which is fetched if SYSTEMS names vllm-rust"
    wanted = GRPC_PACKAGES if name in ("vllm-grpc", "smg") else ()
    lacking = [package.replace("_", "-") for package in wanted if find_spec(package) is None]
    if name == "smg" and not lacking:
        from bench.systems import smg  # noqa: PLC0415  # only once its packages are there

        lacking = [] if smg.command() else ["smg"]
    return ", ".join(lacking)


def create(name: str, setup: Setup) -> System:
    """Returns a system, not yet started."""
    folder, arguments = setup.folder / name, shlex.split(setup.vllm_args)
    core, engine_core = setup.core, setup.engine_core
    # Imported one at a time: some need packages that may be missing, and vLLM takes seconds.
    match name:
        case "tokenrelay" | "tokenrelay-traced":
            return Tokenrelay(
                folder,
                core=core,
                engine_core=engine_core,
                tracing=name == "tokenrelay-traced",
                connections=setup.connections,
                edge=setup.edge,
                model=setup.model,
                vllm_args=setup.vllm_args,
            )
        case "vllm-http":
            from bench.systems.vllm_http import VllmHttp  # noqa: PLC0415

            return VllmHttp(folder, setup.model, arguments, core=core, engine_core=engine_core)
        case "vllm-rust":
            from bench.systems.vllm_rust import VllmRust  # noqa: PLC0415

            return VllmRust(folder, setup.model, arguments, core=core, engine_core=engine_core)
        case "vllm-grpc":
            from bench.systems.vllm_grpc import VllmGrpc  # noqa: PLC0415

            return VllmGrpc(folder, setup.model, arguments, core=core, engine_core=engine_core)
        case "smg":
            from bench.systems.smg import Smg  # noqa: PLC0415

            return Smg(folder, setup.model, arguments, core=core, engine_core=engine_core)
        case _:
            from bench.systems.in_process import InProcess  # noqa: PLC0415

            return InProcess(folder, setup.model, arguments, core=core, engine_core=engine_core)
