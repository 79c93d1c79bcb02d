"""Requests that make vLLM build what it builds at first use.

Some of it takes seconds, and all streams stand still meanwhile: the kernel that ranks logprobs, the grammar compiler's
view of the vocabulary, the random generators of seeded requests.
"""

from tokenrelay.v1 import generation_pb2


def _spec(**asked: object) -> generation_pb2.GenerationSpec:
    params = generation_pb2.SamplingParams(max_tokens=2, **asked)  # type: ignore[arg-type]
    return generation_pb2.GenerationSpec(token_ids=generation_pb2.TokenIds(ids=[1, 1, 1]), sampling_params=params)


WARM_UPS = (
    _spec(temperature=0, logprobs=1, prompt_logprobs=1),
    _spec(temperature=1, seed=1, top_p=0.9, top_k=10, min_p=0.1, logprobs=1),
    _spec(temperature=1, presence_penalty=0.1, min_tokens=1, logit_bias={1: 1.0}, logprob_token_ids=[1]),
    _spec(temperature=0, json_object=True),
)
