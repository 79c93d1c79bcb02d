"""Decides what a generation that goes back to the queue is charged with: the death of its engine, or nothing.

A generation that was in a crashed engine and had produced no token there may have caused the crash. The first time it is
requeued as a suspect. A suspect whose engine crashes again, while it ran alone, becomes a dead letter.
"""

from collections.abc import Iterable

from broker_worker.execution import Execution, State
from tokenrelay.clock import PeerClock
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import DeadLetterError
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Requeue
from tokenrelay.v1 import generation_pb2

REASON = (
    "the engine crashed twice on this prompt before it produced a token, the second time with nothing else running; "
    "the generation is a dead letter and is not retried"
)


def likeliest_first(executions: Iterable[Execution]) -> list[Execution]:
    """Puts what has few tokens before what has long done well: should the engine have died, it is the likelier cause."""
    return sorted(executions, key=lambda execution: execution.last)


def requeue(
    execution: Execution, engine: engine_service_pb2.DescribeEngineResponse, worker_id: str, clock: PeerClock
) -> Requeue:
    """Returns how a generation is requeued.

    Args:
        execution: of the generation.
        engine: the one that had it.
        worker_id: the worker that had it there.
        clock: Redis'.
    """
    plain = Requeue(execution.generation_id, execution.fence)
    if execution.state is not State.STRICKEN:
        return plain
    if not (execution.record.is_suspect and execution.began_alone):
        return plain._replace(engine_died=True)
    failed = generation_pb2.GENERATION_STATE_FAILED
    terminal = execution.bad_finish(failed, DeadLetterError(REASON), clock).terminal
    letter = store_pb2.DeadLetter(
        generation_id=execution.generation_id,
        job=execution.record.job,
        spec=execution.record.spec,
        reason=terminal.error,
        timeline=terminal.timeline,
        sequence=execution.record.last,
        worker_id=worker_id,
        engine=engine.engine,
        engine_version=engine.engine_version,
        fingerprint=engine.fingerprint,
    )
    return plain._replace(engine_died=True, terminal=terminal, letter=letter)
