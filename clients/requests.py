"""Plain Python values as the contract's requests; pure.

Wrong values are refused here, with the field and its limit in the text, so that no exception of protobuf's comes out: its
texts name neither. A value of a type that the contract does not have is a TypeError, any other an InvalidRequestError, as
the server would say it. Limits that depend on the model are the server's to judge.
"""

import operator
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf import duration_pb2
from google.protobuf.descriptor import FieldDescriptor

from tokenrelay.errors import InvalidRequestError
from tokenrelay.v1 import generation_pb2, generation_service_pb2

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Text, token ids, or chat messages as {"role": ..., "content": ...}."""

Request = TypeVar(
    "Request",
    generation_service_pb2.GenerateRequest,
    generation_service_pb2.GenerateStreamRequest,
    generation_service_pb2.SubmitGenerationRequest,
)

INT32, INT64 = 2**31, 2**63
LONGEST_DURATION = 315_576_000_000  # seconds; google.protobuf.Duration's own limit
BITS = {FieldDescriptor.CPPTYPE_INT32: INT32, FieldDescriptor.CPPTYPE_INT64: INT64}


@dataclass(frozen=True)
class Options:
    """What a request says beside what is to be generated.

    Attributes:
        idempotency_key: unset: a random one, so that the library's own retries join what is there already.
        queue_timeout: seconds to wait for a worker.
        time_limit: seconds until the end.
        on_disconnect: what happens when the last reader is gone.
    """

    idempotency_key: str | None = None
    queue_timeout: float | None = None
    time_limit: float | None = None
    on_disconnect: generation_pb2.DisconnectPolicy.ValueType | None = None


def to_generate(
    prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]
) -> generation_service_pb2.GenerateRequest:
    """Returns a request for a whole answer."""
    return _build(generation_service_pb2.GenerateRequest, prompt, model, options, sampling)


def to_stream(
    prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]
) -> generation_service_pb2.GenerateStreamRequest:
    """Returns a request for an answer as it comes."""
    return _build(generation_service_pb2.GenerateStreamRequest, prompt, model, options, sampling)


def to_submit(
    prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]
) -> generation_service_pb2.SubmitGenerationRequest:
    """Returns a request for a generation that runs by itself."""
    return _build(generation_service_pb2.SubmitGenerationRequest, prompt, model, options, sampling)


def generation_id(value: object) -> str:
    """Returns a generation's id.

    Raises:
        InvalidRequestError: it is empty, or no text that can be sent.
        TypeError: it is no str.
    """
    checked = _text("generation_id", value)
    if not checked:
        raise InvalidRequestError.of_field("generation_id", "is required")
    return checked


def after_sequence(value: object) -> int:
    """Returns a sequence to go on after.

    Raises:
        InvalidRequestError: it is negative, or more than a sequence may be.
        TypeError: it is no int.
    """
    return _integer("after_sequence", value, 0, INT64 - 1)


def spec(prompt: Prompt, model: str | None, sampling: Mapping[str, Any]) -> generation_pb2.GenerationSpec:
    """Returns what is to be generated; sampling parameters that are None count as unset.

    Raises:
        InvalidRequestError: a value cannot be sent; names the field.
        TypeError: a value is of no type that the contract has, or there is no such sampling parameter.
    """
    built = generation_pb2.GenerationSpec(model=_text("spec.model", "" if model is None else model))
    _set_prompt(built, prompt)
    params = generation_pb2.SamplingParams()
    for name, value in sampling.items():
        if value is not None:
            _set_parameter(params, name, value)
    built.sampling_params.CopyFrom(params)
    return built


def _build(kind: type[Request], prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]) -> Request:
    options = options or Options()
    detached = kind is generation_service_pb2.SubmitGenerationRequest
    # A lost connection is not the user's wish: the generation waits a while for this client to come back.
    default = generation_pb2.DISCONNECT_POLICY_DETACH if detached else generation_pb2.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    policy = default if options.on_disconnect is None else options.on_disconnect
    request = kind(
        spec=spec(prompt, model, sampling),
        idempotency_key=_text("idempotency_key", options.idempotency_key or uuid.uuid4().hex),
        on_disconnect=_integer("on_disconnect", policy, -INT32, INT32 - 1),  # type: ignore[arg-type]  # an enum is an int
    )
    if options.queue_timeout is not None:
        request.queue_timeout.CopyFrom(_duration("queue_timeout", options.queue_timeout))
    if options.time_limit is not None:
        request.time_limit.CopyFrom(_duration("time_limit", options.time_limit))
    return request


def _set_prompt(built: generation_pb2.GenerationSpec, prompt: object) -> None:
    if isinstance(prompt, str):
        built.text = _text("spec.text", prompt)
        return
    # Bytes are a sequence of ints, a mapping one of its keys: what would be sent is not what is meant.
    if isinstance(prompt, bytes | bytearray | memoryview | Mapping):
        raise TypeError(f"prompt: must be a str, token ids, or a list of chat messages, is {type(prompt).__name__}")
    try:
        parts = list(prompt)  # type: ignore[call-overload]  # whatever can be iterated, such as an array of ids
    except TypeError:
        raise TypeError(f"prompt: must be a str, token ids, or chat messages, is {type(prompt).__name__}") from None
    if parts and isinstance(parts[0], Mapping):
        for index, message in enumerate(parts):
            _add_message(built.chat, f"spec.chat.messages[{index}]", message)
    else:
        ids = (_integer(f"spec.token_ids.ids[{index}]", part, -INT32, INT32 - 1) for index, part in enumerate(parts))
        built.token_ids.ids.extend(ids)


def _add_message(chat: generation_pb2.Chat, place: str, message: object) -> None:
    if not isinstance(message, Mapping):
        raise TypeError(f"{place}: must be a mapping with role and content, as the first one is; is {type(message).__name__}")
    for name in ("role", "content"):
        if message.get(name) is None:
            raise InvalidRequestError.of_field(f"{place}.{name}", "is required")
    role, content = (_text(f"{place}.{name}", message[name]) for name in ("role", "content"))
    chat.messages.add(role=role, content=content)


def _set_parameter(params: generation_pb2.SamplingParams, name: str, value: Any) -> None:
    field = params.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise TypeError(f"sampling parameters: there is no {name!r}")
    place = f"spec.sampling_params.{name}"
    if name == "stop" and isinstance(value, str):
        value = [value]
    if name == "choice" and isinstance(value, list | tuple):
        value = generation_pb2.Choices(texts=[_text(f"{place}.texts[{index}]", text) for index, text in enumerate(value)])
    try:
        params.MergeFrom(generation_pb2.SamplingParams(**{name: value}))
    except UnicodeError:
        raise InvalidRequestError.of_field(place, NO_TEXT) from None
    except (TypeError, AttributeError) as error:
        raise TypeError(f"{place}: {_shown(value)} is of a wrong type ({error})") from None
    except (ValueError, OverflowError) as error:
        if "has no" in str(error):  # a message within, given as a dict with a key that it does not have
            raise TypeError(f"{place}: {error}") from None
        raise InvalidRequestError.of_field(place, f"is out of range; {_limits(field)}") from None


NO_TEXT = "is not valid Unicode text: it has half of a surrogate pair, as undecodable bytes become"


def _limits(field: FieldDescriptor) -> str:
    """Returns what a field may be. Messages and maps have whole numbers of 32 bits inside."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return "must be a number of 32 bits"
    bound = BITS.get(field.cpp_type, INT32)
    return f"must be from {-bound} to {bound - 1}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _text(place: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{place}: must be a str, is {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError.of_field(place, NO_TEXT) from None
    return value


def _integer(place: str, value: object, least: int, most: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # that is what is found out here
    except TypeError:
        raise TypeError(f"{place}: must be an int, is {type(value).__name__}") from None
    if not least <= number <= most:
        raise InvalidRequestError.of_field(place, f"is {_digits(number)}; must be from {least} to {most}")
    return number


def _digits(number: int) -> str:
    # Python refuses to write numbers of thousands of digits.
    return str(number) if number.bit_length() <= 256 else f"a number of {number.bit_length()} bits"


def _duration(place: str, seconds: object) -> duration_pb2.Duration:
    if not isinstance(seconds, int | float):
        raise TypeError(f"{place}: must be a number of seconds, is {type(seconds).__name__}")
    if not abs(seconds) <= LONGEST_DURATION:  # also true of nan
        raise InvalidRequestError.of_field(place, f"is {seconds:g} seconds; must be at most {LONGEST_DURATION}")
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1_000_000_000))
    return duration
