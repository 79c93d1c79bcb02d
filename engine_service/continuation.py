"""What is promised of a generation that goes on after a takeover: whether it may, and whether it is exact."""

from collections.abc import Iterable

from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import GenerationAbortedError
from tokenrelay.v1 import generation_pb2


def refuse_if_impossible(params: generation_pb2.SamplingParams, emitted: Iterable[engine_service_pb2.EmittedChoice]) -> None:
    """Raises GenerationAbortedError if emitted tokens cannot be continued: a grammar's state is gone with its engine.

    A choice that has ended needs no continuation.
    """
    cut_off = any(choice.token_ids and not choice.HasField("end") for choice in emitted)
    if cut_off and params.WhichOneof("structured_output") is not None:
        raise GenerationAbortedError(
            "the worker was lost after the first token, and structured output cannot be continued; ask again as a new request"
        )


def is_exact(params: generation_pb2.SamplingParams, temperature: float) -> bool:
    """Tells whether a continuation is what an undisturbed run would have given, on engines that are deterministic.

    Sampling is not, seeded neither, because the generator's state is gone. Nor is what looks at the output alone, since the
    tokens that are out count as prompt now. The repetition penalty looks at both, so it is.

    Args:
        params: what was asked for.
        temperature: what applies, the model's default if none was asked for.
    """
    looks_at_output = (
        params.presence_penalty != 0
        or params.frequency_penalty != 0
        or params.bad_words
        or params.HasField("repetition_detection")
        or params.HasField("thinking_token_budget")
    )
    return temperature == 0 and not looks_at_output
