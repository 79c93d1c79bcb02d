"""What a worker hands back when its engine has died: who may have been the cause, and what becomes of one that is it again."""

from collections.abc import Iterable

from broker_worker.execution import Execution
from tokenrelay.clock import PeerClock
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import DeadLetterError
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Requeue
from tokenrelay.v1 import generation_pb2

REASON = (
    "an engine died while it worked on this prompt and before it gave a token, not for the first time, and with nothing else "
    "to do; the generation was set aside and is not tried again"
)


def likeliest_first(executions: Iterable[Execution]) -> list[Execution]:
    """Puts what has few tokens before what has long done well: should the engine have died, it is the likelier cause."""
    return sorted(executions, key=lambda execution: execution.last)


def hand_back(
    execution: Execution, engine: engine_service_pb2.DescribeEngineResponse, worker_id: str, clock: PeerClock
) -> Requeue:
    """Returns how a generation is handed back.

    Args:
        execution: of the generation.
        engine: the one that had it.
        worker_id: the worker that had it there.
        clock: Redis'.
    """
    plain = Requeue(execution.generation_id, execution.fence)
    if not (execution.engine_died and execution.is_unproven):
        return plain
    if not (execution.record.is_suspect and execution.alone):
        return plain._replace(engine_died=True)
    failed = generation_pb2.GENERATION_STATE_FAILED
    terminal = execution.bad_ending(failed, DeadLetterError(REASON), clock).terminal
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
