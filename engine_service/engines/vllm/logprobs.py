"""vLLM's logprobs as the contract's."""

import math
from typing import Any

from vllm.outputs import RequestOutput

from tokenrelay.v1 import generation_pb2


def of_tokens(token_ids: Any, logprobs: Any) -> list[generation_pb2.TokenLogprobs]:
    """Returns one entry per token, the taken one first; none if none were asked for."""
    if not logprobs:
        return []
    return [_candidates(token, position) for token, position in zip(token_ids, logprobs, strict=False)]


def of_prompt(output: RequestOutput) -> list[generation_pb2.TokenLogprobs]:
    """Returns one entry per token of the prompt; the first one, which follows nothing, is empty."""
    if not output.prompt_logprobs:
        return []
    return of_tokens(output.prompt_token_ids or (), output.prompt_logprobs)


def _candidates(taken: int, position: Any) -> generation_pb2.TokenLogprobs:
    entry = generation_pb2.TokenLogprobs()
    for token, logprob in sorted((position or {}).items(), key=lambda pair: (pair[0] != taken, pair[1].rank or 0)):
        value = logprob.logprob if math.isfinite(logprob.logprob) else -math.inf
        entry.candidates.add(token_id=token, logprob=value, rank=logprob.rank or 0, text=logprob.decoded_token or "")
    return entry
