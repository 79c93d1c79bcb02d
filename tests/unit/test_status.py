import pytest
from google.rpc import code_pb2, status_pb2

from tokenrelay import errors
from tokenrelay.errors import FieldViolation, TokenrelayError
from tokenrelay.status import STATUS_BYTES, _subclasses, from_status, metadata_bytes, shortened, to_status

# Other modules may refine errors for themselves; a client sees these.
KINDS = [kind for kind in _subclasses(TokenrelayError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_survives_its_way_to_the_client(kind: type[TokenrelayError]) -> None:
    sent = kind("what is wrong", retry_after=1.5, violations=[FieldViolation("a.b", "is bad")])
    got = from_status(status_pb2.Status.FromString(to_status(sent).SerializeToString()))
    assert type(got) is kind
    assert (got.message, got.retry_after, got.violations) == ("what is wrong", 1.5, (FieldViolation("a.b", "is bad"),))


def test_a_status_of_another_origin_gives_the_code_s_class() -> None:
    assert type(from_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, message="gone"))) is errors.UnavailableError
    assert type(from_status(status_pb2.Status(code=code_pb2.DATA_LOSS))) is errors.DataLossError
    assert type(from_status(status_pb2.Status(code=code_pb2.UNIMPLEMENTED))) is errors.UnimplementedError
    assert type(from_status(status_pb2.Status(code=code_pb2.UNKNOWN))) is TokenrelayError


def test_reasons_and_codes_tell_all_errors_apart() -> None:
    told = [(kind.code, kind.reason) for kind in KINDS]
    assert len(told) == len(set(told))


def test_an_internal_error_says_nothing_but_where_to_look() -> None:
    assert errors.InternalError.logged_as("abc").message == "internal error; the server's log has it under error_id abc"


def hostile_errors() -> list[TokenrelayError]:
    """Returns errors whose texts are far too long, in each way in which they become longer on the wire."""
    texts = ("a" * 50_000, "%" * 50_000, "\N{GRINNING FACE}" * 10_000, "é" * 30_000, "\x00" * 10_000, "")
    made: list[TokenrelayError] = [errors.InvalidRequestError(text) for text in texts]
    made += [errors.InvalidRequestError.of_field("spec.chat", text) for text in texts]
    made += [errors.InvalidRequestError.of_field(text, "is bad") for text in texts]
    for text in texts:
        some = [FieldViolation(f"spec.messages[{number}].role", text[:64]) for number in range(100)]
        made.append(
            errors.QueueFullError(
                "; ".join(f"{one.field}: {one.description}" for one in some), retry_after=1.0, violations=some
            )
        )
    return made


@pytest.mark.parametrize("error", hostile_errors(), ids=lambda error: ascii(str(error)[:8]))
def test_a_status_fits_into_grpc_s_metadata_and_stays_what_it_is(error: TokenrelayError) -> None:
    status = to_status(error)
    assert metadata_bytes(status) <= STATUS_BYTES < 8192
    got = from_status(status)
    assert (type(got), got.retry_after) == (type(error), error.retry_after)
    assert bool(got.violations) is bool(error.violations)


def test_a_short_status_is_left_as_it_is() -> None:
    assert to_status(errors.InvalidRequestError("répété: 100 %")).message == "répété: 100 %"
    assert shortened("aé", 7) == "aé"
    assert shortened("aéé", 12) == "a…"
