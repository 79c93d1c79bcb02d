"""The terminal records that scripts write by themselves, when no worker is there to do it."""

from tokenrelay.errors import DataLossError, GenerationCancelledError, GenerationExpiredError, TokenrelayError
from tokenrelay.status import to_status
from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import generation_pb2

RETRY_AFTER_QUEUE_TIMEOUT = 1.0  # seconds; the queue may have become shorter


def of_error(state: generation_pb2.GenerationState.ValueType, error: TokenrelayError) -> store_pb2.Terminal:
    """Returns the terminal record of a generation that ended by an error."""
    return store_pb2.Terminal(state=state, error=to_status(error))


def cancelled() -> store_pb2.Terminal:
    return of_error(generation_pb2.GENERATION_STATE_CANCELLED, GenerationCancelledError("the generation was cancelled"))


def past_deadline() -> store_pb2.Terminal:
    return of_error(
        generation_pb2.GENERATION_STATE_EXPIRED,
        GenerationExpiredError("the call's deadline or time_limit passed before the generation was finished"),
    )


def past_queue_timeout() -> store_pb2.Terminal:
    error = GenerationExpiredError(
        "queue_timeout passed before a worker took the generation", retry_after=RETRY_AFTER_QUEUE_TIMEOUT
    )
    return of_error(generation_pb2.GENERATION_STATE_EXPIRED, error)


def log_lost() -> store_pb2.Terminal:
    return of_error(
        generation_pb2.GENERATION_STATE_FAILED,
        DataLossError("the generation's data in Redis are damaged or incomplete; it cannot go on"),
    )


def of_time() -> dict[str, bytes]:
    """Returns the terminal records that claim and reap write, serialized, by the names of the scripts' arguments."""
    return {
        "cancelled": cancelled().SerializeToString(),
        "past_deadline": past_deadline().SerializeToString(),
        "past_queue_timeout": past_queue_timeout().SerializeToString(),
    }
