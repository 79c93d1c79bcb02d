"""What vLLM's refusals mean to a client: which field is wrong, in one bounded line.

vLLM's validation errors are written for clients, but name a parameter only sometimes, run over several lines where a
compiler speaks, and may hold the text of a Python error. So the field is found here, and the text is cut to a size that
fits into a status.
"""

import re
from collections.abc import Iterator

from vllm.exceptions import VLLMClientError

from tokenrelay.errors import InvalidRequestError
from tokenrelay.status import shortened
from tokenrelay.v1 import generation_pb2

PARAMETERS = "spec.sampling_params"
"""Where a request has its sampling parameters."""

LONGEST_DETAIL = 400  # bytes of what vLLM says
NAMES = {field.name for field in generation_pb2.SamplingParams.DESCRIPTOR.fields}
WORD = re.compile(r"\w+")
# xgrammar begins its errors with a time, a place in its source and sometimes the check that failed.
SOURCE = re.compile(r"^\[[\d:]+\] \S+?:\d+: (Check failed: \(.*?\) is false: )?")


def refusal(error: VLLMClientError) -> InvalidRequestError:
    """Returns the error of a request that vLLM does not take; it names the sampling parameter that vLLM speaks of."""
    text = detail(error)
    parameter = getattr(error, "parameter", None)
    candidates = [parameter] if parameter else WORD.findall(text)
    field = next((f"{PARAMETERS}.{name}" for name in candidates if name in NAMES), "spec")
    return InvalidRequestError.of_field(field, text)


def refused_structure(kind: str, error: Exception) -> InvalidRequestError:
    """Returns the error of a structured output that cannot be compiled.

    Args:
        kind: the field that asks for it, such as `regex`.
        error: what the judge of grammars raised. Its text is repeated only if a compiler wrote it.
    """
    reasons = [detail(one) for one in _chain(error) if _is_written_for_people(one)]
    # The last one is the compiler's own, and says where in the text; those around it say only that something is wrong.
    return unusable_structure(kind, ": ".join(["the engine cannot compile it", *reasons[-1:]]))


def unusable_structure(kind: str, description: str) -> InvalidRequestError:
    """Returns the error of a structured output with a description of our own."""
    return InvalidRequestError.of_field(f"{PARAMETERS}.{kind}", description)


def detail(error: BaseException) -> str:
    """Returns what an error says, as one line of bounded size."""
    text = str(error.args[0]) if len(error.args) == 1 else str(error)
    return shortened(" ".join(SOURCE.sub("", text.strip()).split()), LONGEST_DETAIL)


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _is_written_for_people(error: BaseException) -> bool:
    """Tells a compiler's words from those of a Python error, such as "'int' object is not subscriptable".

    vLLM wraps both in a VLLMValidationError; in one that has a cause, the cause is the one to ask.
    """
    if isinstance(error, VLLMClientError):
        return error.__cause__ is None
    return type(error) is RuntimeError or type(error).__module__.startswith("xgrammar")
