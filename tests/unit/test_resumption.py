"""What a client's stream makes of what comes: nothing is taken twice, and nothing may be missing."""

import pytest

from tokenrelay import errors
from tokenrelay.client.requests import Options, spec, to_stream, to_submit
from tokenrelay.client.resumption import Deadline, Position, Retries, RetryPolicy, digest
from tokenrelay.v1 import generation_pb2 as g


def delta(sequence: int, *ids: int, index: int = 0) -> g.GenerationEvent:
    return g.GenerationEvent(sequence=sequence, delta=g.Delta(index=index, token_ids=ids))


def end(sequence: int, *choices: list[int]) -> g.GenerationEvent:
    finished = g.Finished(choices=[g.ChoiceEnd(index=index) for index in range(len(choices))], digest=digest(choices))
    return g.GenerationEvent(sequence=sequence, finished=finished)


def test_a_whole_stream_fits_its_digest() -> None:
    position = Position()
    position.take(g.GenerationEvent(accepted=g.Accepted(generation_id="id")))
    assert position.take(delta(2, 10, 11)) is not None
    assert position.take(delta(3, 20, index=1)) is not None
    assert position.take(delta(4, 12)) is not None
    assert position.take(end(4, [10, 11, 12], [20])) is None
    assert (position.generation_id, position.sequence) == ("id", 4)
    assert position.finished is not None


def test_what_was_seen_is_not_taken_again() -> None:
    position = Position()
    position.take(delta(2, 1, 2))
    assert position.take(delta(2, 1, 2)) is None
    assert position.take(delta(1, 1)) is None
    assert position.sequence == 2


@pytest.mark.parametrize("event", [delta(4, 4), end(3, [1, 2, 3])])
def test_a_missing_token_is_data_loss(event: g.GenerationEvent) -> None:
    position = Position()
    position.take(delta(2, 1, 2))
    with pytest.raises(errors.DataLossError, match="2 was the last one seen"):
        position.take(event)


def test_a_wrong_digest_is_data_loss() -> None:
    position = Position()
    position.take(delta(2, 1, 2))
    with pytest.raises(errors.DataLossError, match="digest"):
        position.take(end(2, [1, 3]))


def test_a_reader_that_came_late_cannot_check_the_digest() -> None:
    position = Position("id", 5, complete=False)
    position.take(delta(6, 7))
    position.take(end(6, [1, 2, 3, 4, 5, 7]))
    assert position.finished is not None


def test_a_stream_without_an_end_is_broken() -> None:
    with pytest.raises(errors.UnavailableError, match="broke off"):
        Position().check_end()


def test_delays_double_up_to_the_longest() -> None:
    retries = Retries(RetryPolicy(first_delay=1, longest_delay=4))
    delays = [retries.delay_after(errors.StoreUnavailableError("away")) for _ in range(5)]
    assert all(0.5 * most <= delay <= most for delay, most in zip(delays, (1, 2, 4, 4, 4), strict=True))


def test_thousands_of_tries_overflow_nothing() -> None:
    retries = Retries(RetryPolicy(give_up_after=1e9))
    assert all(retries.delay_after(errors.UnavailableError("away")) <= 2.0 for _ in range(3000))


@pytest.mark.parametrize(
    "error",
    [
        errors.QueueFullError("full", retry_after=3.0),
        errors.StoreFullError("full", retry_after=3.0),
        errors.UnavailableError("10000 calls are open", retry_after=3.0),
        errors.NoWorkerError("none", retry_after=3.0),
    ],
)
def test_a_gateway_says_how_long_to_wait(error: errors.TokenrelayError) -> None:
    retries = Retries(RetryPolicy(first_delay=0.1))
    assert 3.0 <= retries.delay_after(error) <= 3.3
    assert 3.0 <= retries.delay_after(error) <= 3.3


def test_a_delay_longer_than_the_gateway_s_stays() -> None:
    retries = Retries(RetryPolicy(first_delay=10, longest_delay=10))
    assert retries.delay_after(errors.DrainingError("stopping", retry_after=0.1)) >= 5


@pytest.mark.parametrize(
    "error",
    [
        errors.MessageTooLargeError("too large"),
        errors.MessageTooLargeError("too large", retry_after=1.0),
        errors.QueueFullError("full"),
        errors.GenerationExpiredError("queue_timeout passed", retry_after=1.0),
        errors.InvalidRequestError("wrong"),
        errors.GenerationNotFoundError("none"),
        errors.InternalError("internal"),
        errors.DataLossError("lost"),
        errors.TokenrelayError("refused"),
    ],
)
def test_what_would_come_again_is_raised(error: errors.TokenrelayError) -> None:
    with pytest.raises(type(error)):
        Retries(RetryPolicy()).delay_after(error)


def test_a_wait_that_would_outlast_the_patience_or_the_deadline_is_not_begun() -> None:
    error = errors.QueueFullError("full", retry_after=5.0)
    with pytest.raises(errors.QueueFullError):
        Retries(RetryPolicy(give_up_after=4.0)).delay_after(error)
    with pytest.raises(errors.QueueFullError):
        Retries(RetryPolicy(), Deadline.after(4.0)).delay_after(error)
    assert (
        Retries(RetryPolicy(first_delay=10, longest_delay=10), Deadline.after(1.0)).delay_after(errors.UnavailableError(""))
        <= 1
    )


def test_patience_ends_unless_there_is_progress() -> None:
    retries = Retries(RetryPolicy(give_up_after=0))
    retries.delay_after(errors.UnavailableError("first"))
    with pytest.raises(errors.UnavailableError, match="second"):
        retries.delay_after(errors.UnavailableError("second"))
    retries.progressed()
    retries.delay_after(errors.UnavailableError("third"))


def test_a_deadline_that_has_passed_is_told() -> None:
    assert Deadline.after(None).left() is None
    assert 0 < (Deadline.after(10).left() or 0) <= 10
    with pytest.raises(errors.GenerationExpiredError):
        Deadline.after(-1).left()


def test_prompts_of_all_kinds() -> None:
    assert spec("hi", "m", {}).text == "hi"
    assert spec([1, 2], "m", {}).token_ids.ids == [1, 2]
    assert spec([{"role": "user", "content": "hi"}], "m", {}).chat.messages[0].content == "hi"


def test_sampling_parameters_that_are_none_stay_unset() -> None:
    built = spec("hi", "", {"temperature": 0, "max_tokens": None, "stop": "x", "choice": ["a", "b"]})
    params = built.sampling_params
    assert params.HasField("temperature")
    assert not params.HasField("max_tokens")
    assert list(params.stop) == ["x"]
    assert list(params.choice.texts) == ["a", "b"]
    with pytest.raises(TypeError, match="sampling parameters"):
        spec("hi", "", {"temprature": 0})


def test_the_library_waits_for_its_own_return() -> None:
    assert to_stream("hi", "", None, {}).on_disconnect == g.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    assert to_submit("hi", "", None, {}).on_disconnect == g.DISCONNECT_POLICY_DETACH
    options = Options("key", 1.5, 2.0, g.DISCONNECT_POLICY_DETACH)
    request = to_stream("hi", "", options, {})
    assert (request.idempotency_key, request.queue_timeout.ToMilliseconds(), request.time_limit.seconds) == ("key", 1500, 2)
    assert to_stream("hi", "", None, {}).idempotency_key != to_stream("hi", "", None, {}).idempotency_key


def test_a_wait_is_told_with_its_error() -> None:
    told: list[tuple[errors.TokenrelayError, float]] = []
    error = errors.UnavailableError("away")
    delay = Retries(RetryPolicy(on_wait=lambda *what: told.append(what))).delay_after(error)
    assert told == [(error, delay)]
