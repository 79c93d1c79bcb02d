"""The log line of a generation that ends in the queue; what runs is reported by its worker."""

import structlog

from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


def report(generation_id: str, state: int) -> None:
    """Writes the line.

    Args:
        generation_id: of the generation.
        state: the terminal one, as a script has replied it.
    """
    name = generation_pb2.GenerationState.Name(generation_pb2.GenerationState.ValueType(state))
    log.warning("generation ended", generation_id=generation_id, state=name.removeprefix("GENERATION_STATE_"), unstarted=True)
