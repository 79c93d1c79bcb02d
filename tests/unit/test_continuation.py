"""What may go on after a takeover."""

import pytest

from engine_service.continuation import refuse_if_impossible
from tokenrelay.engine.v1.engine_service_pb2 import EmittedChoice
from tokenrelay.errors import GenerationAbortedError
from tokenrelay.v1 import generation_pb2 as g

STRUCTURED = g.SamplingParams(json_object=True)
ENDED = EmittedChoice(token_ids=[1, 2], end=g.ChoiceEnd(finish_reason=g.FINISH_REASON_STOP))
CUT_OFF = EmittedChoice(index=1, token_ids=[1, 2])


def test_structured_output_that_was_cut_off_cannot_go_on() -> None:
    with pytest.raises(GenerationAbortedError, match="structured output cannot be continued"):
        refuse_if_impossible(STRUCTURED, [ENDED, CUT_OFF])


@pytest.mark.parametrize("emitted", [[], [EmittedChoice()], [ENDED]], ids=["nothing", "no tokens", "ended"])
def test_structured_output_of_which_nothing_is_cut_off_can(emitted: list[EmittedChoice]) -> None:
    refuse_if_impossible(STRUCTURED, emitted)


def test_plain_text_can() -> None:
    refuse_if_impossible(g.SamplingParams(), [CUT_OFF])
