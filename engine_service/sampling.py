"""The contract's sampling parameters as vLLM's keyword arguments; pure, without vLLM.

Only what is set is passed, so that unset means the model's default, then vLLM's.
"""

from typing import Any

from tokenrelay.v1 import generation_pb2

SCALARS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logprobs",
    "prompt_logprobs",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "thinking_token_budget",
    "skip_reading_prefix_cache",
    "watermarking",
)
LISTS = ("stop", "stop_token_ids", "bad_words", "allowed_token_ids", "logprob_token_ids")
STRUCTURED = {"json_schema": "json"}  # the only field whose name differs from vLLM's
SMALLEST_SEED = -(2**63)
SEED_FOR_MINUS_ONE = 0x5EED_0000_5EED_5EED  # its lower half is one that nobody's seed is close to; CPUs look at no more
STRUCTURED_OPTIONS = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


def keyword_arguments(params: generation_pb2.SamplingParams, index: int) -> dict[str, Any]:
    """Returns the arguments of one choice, which runs as an engine request of its own: n is 1, the seed its own.

    The prompt's logprobs are the same for every choice; the first one's carries them.
    """
    arguments: dict[str, Any] = {name: getattr(params, name) for name in SCALARS if params.HasField(name)}  # type: ignore[arg-type]
    arguments |= {name: list(getattr(params, name)) for name in LISTS if getattr(params, name)}
    if params.logit_bias:
        arguments["logit_bias"] = dict(params.logit_bias)
    if params.HasField("seed"):
        arguments["seed"] = _seed(params.seed, index)
    if index > 0:
        arguments.pop("prompt_logprobs", None)
    return arguments


def _seed(seed: int, index: int) -> int:
    """Returns the seed of a choice, seed + index, wrapped to 64 bits with a sign.

    For vLLM, -1 means no seed at all, so another one stands in for it.
    """
    wrapped = (seed + index - SMALLEST_SEED) % 2**64 + SMALLEST_SEED
    return SEED_FOR_MINUS_ONE if wrapped == -1 else wrapped


def structured_output(params: generation_pb2.SamplingParams) -> dict[str, Any] | None:
    """Returns the arguments of vLLM's StructuredOutputsParams, None if no shape is asked for."""
    kind = params.WhichOneof("structured_output")
    if kind is None:
        return None
    value = list(params.choice.texts) if kind == "choice" else getattr(params, kind)
    options = {name: getattr(params, name) for name in STRUCTURED_OPTIONS if params.HasField(name)}  # type: ignore[arg-type]
    return {STRUCTURED.get(kind, kind): value, **options}


def repetition_detection(params: generation_pb2.SamplingParams) -> dict[str, int] | None:
    """Returns the arguments of vLLM's RepetitionDetectionParams, None if it is not asked for."""
    if not params.HasField("repetition_detection"):
        return None
    detection = params.repetition_detection
    return {
        "max_pattern_size": detection.max_pattern_size,
        "min_pattern_size": detection.min_pattern_size,
        "min_count": detection.min_count,
    }
