import pytest
from google.rpc import code_pb2, status_pb2

from tokenrelay import errors
from tokenrelay.errors import FieldViolation, TokenrelayError
from tokenrelay.status import _subclasses, from_status, to_status


@pytest.mark.parametrize("kind", list(_subclasses(TokenrelayError)), ids=lambda kind: kind.__name__)
def test_an_error_survives_its_way_to_the_client(kind: type[TokenrelayError]) -> None:
    sent = kind("what is wrong", retry_after=1.5, violations=[FieldViolation("a.b", "is bad")])
    got = from_status(status_pb2.Status.FromString(to_status(sent).SerializeToString()))
    assert type(got) is kind
    assert (got.message, got.retry_after, got.violations) == ("what is wrong", 1.5, (FieldViolation("a.b", "is bad"),))


def test_a_status_of_another_origin_gives_the_code_s_class() -> None:
    assert type(from_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, message="gone"))) is errors.UnavailableError
    assert type(from_status(status_pb2.Status(code=code_pb2.DATA_LOSS))) is errors.DataLossError
    assert type(from_status(status_pb2.Status(code=code_pb2.UNIMPLEMENTED))) is TokenrelayError


def test_reasons_and_codes_tell_all_errors_apart() -> None:
    told = [(kind.code, kind.reason) for kind in _subclasses(TokenrelayError)]
    assert len(told) == len(set(told))


def test_an_internal_error_says_nothing_but_where_to_look() -> None:
    assert errors.InternalError.logged_as("abc").message == "internal error; the server's log has it under error_id abc"
