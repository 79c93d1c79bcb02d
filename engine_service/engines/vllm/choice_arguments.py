"""A request's sampling parameters as vLLM's, judged where vLLM's own words would not help a client."""

from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from engine_service import sampling
from engine_service.engines.vllm.errors import PARAMETERS
from tokenrelay.errors import InvalidRequestError
from tokenrelay.v1 import generation_pb2


class ChoiceArguments:
    """Makes the arguments of each choice's SamplingParams, for one model.

    Args:
        llm: whose model, and whose limits.
    """

    def __init__(self, llm: AsyncLLM) -> None:
        config = llm.model_config
        self._config = config
        self._tokenizer = llm.get_tokenizer()
        self._defaults: dict[str, Any] = config.get_diff_sampling_param()
        self._end_tokens = _end_tokens(llm)
        reasoning = llm.vllm_config.reasoning_config
        self._has_thinking_budgets = reasoning is not None and reasoning.enabled

    def of_choice(
        self,
        params: generation_pb2.SamplingParams,
        index: int,
        limit: int,
        structured_outputs: StructuredOutputsParams | None,
    ) -> dict[str, Any]:
        """Returns the arguments of one choice.

        Args:
            params: what was asked for.
            index: which choice.
            limit: how many tokens it may have.
            structured_outputs: the shape of its text, which all choices of a request share.
        """
        arguments = {**self._defaults, **sampling.keyword_arguments(params, index), "max_tokens": limit}
        repetition = sampling.repetition_detection(params)
        if structured_outputs is not None:
            arguments["structured_outputs"] = structured_outputs
        if repetition is not None:
            arguments["repetition_detection"] = RepetitionDetectionParams(**repetition)
        return {**arguments, "output_kind": RequestOutputKind.DELTA}

    def check(self, params: generation_pb2.SamplingParams, limit: int) -> None:
        """Judges what only the engine knows the limits of.

        Args:
            params: what was asked for.
            limit: how many tokens a choice may have.

        Raises:
            InvalidRequestError: names the field and its limit.
        """
        vocabulary, most = self._config.get_vocab_size(), self._config.max_logprobs
        most = vocabulary if most == -1 else most
        for name, value in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
            wanted = vocabulary if value == -1 else value
            if wanted > most:
                raise _wrong(name, f"is {value}{' for all' if value == -1 else ''}; at most {most}")
        if params.min_tokens > limit:
            raise _wrong("min_tokens", f"is {params.min_tokens}; at most {limit}, because the answer may have no more tokens")
        if params.HasField("thinking_token_budget") and params.thinking_token_budget != -1 and not self._has_thinking_budgets:
            raise _wrong("thinking_token_budget", "cannot be kept: this engine has no reasoning parser for its model")
        self._check_tokens_left(params)

    def _check_tokens_left(self, params: generation_pb2.SamplingParams) -> None:
        """Refuses parameters that together forbid every token: vLLM would then sample a forbidden one."""
        # Searched only up to the first token that is left. The vocabulary as a set takes milliseconds, and this runs on the
        # event loop, for every request.
        allowed = params.allowed_token_ids or range(self._config.get_vocab_size())
        ends: set[int] = {*params.stop_token_ids, *self._end_tokens} if params.min_tokens > 0 else set()
        if ends and ends.issuperset(allowed):
            raise _wrong("min_tokens", "leaves no token to begin with, because all that are allowed end the answer")
        if params.bad_words and params.allowed_token_ids:
            probe = SamplingParams(bad_words=list(params.bad_words))
            probe.update_from_tokenizer(self._tokenizer)
            forbidden = {ids[0] for ids in probe.bad_words_token_ids or () if len(ids) == 1}
            if (ends | forbidden).issuperset(allowed):
                raise _wrong("bad_words", "leaves no token to begin with, because it forbids all that are allowed")


def structured_outputs(params: generation_pb2.SamplingParams) -> StructuredOutputsParams | None:
    """Returns the shape of the text that was asked for, None for none."""
    shape = sampling.structured_output(params)
    return None if shape is None else StructuredOutputsParams(**shape)


def _end_tokens(llm: AsyncLLM) -> set[int]:
    """Returns the tokens that end an answer of this model by themselves."""
    configured = llm.model_config.try_get_generation_config().get("eos_token_id")
    ends = set(configured) if isinstance(configured, list) else {configured}
    return {token for token in (*ends, llm.renderer.get_eos_token_id()) if token is not None}


def _wrong(name: str, description: str) -> InvalidRequestError:
    return InvalidRequestError.of_field(f"{PARAMETERS}.{name}", description)
