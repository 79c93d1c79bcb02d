"""Judging structured output: where it is done, and for how long."""

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from engine_service.engines import EngineRequest, Measured
from tokenrelay.errors import InvalidRequestError
from tokenrelay.v1 import generation_pb2 as g

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's and vLLM's own, when they are imported
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from engine_service.engines.vllm import grammars, seam
    from engine_service.engines.vllm.grammars import Grammars
    from engine_service.engines.vllm.run import VllmRun

ASKED = g.SamplingParams(regex="a")


class Llm:
    """Stands in for AsyncLLM: verifies parameters when a request is added, as that does."""

    vllm_config = SimpleNamespace(model_config=None, speculative_config=None, structured_outputs_config=None)
    errored = False
    output_processor = SimpleNamespace(request_states={})

    def get_tokenizer(self) -> Any:
        return SimpleNamespace(decode=lambda *_, **__: "text")

    async def add_request(self, name: str, _: Any, params: SamplingParams) -> Any:
        params.verify(None, None, None, None)
        return SimpleNamespace(request_id=name, get_nowait=lambda: None)


@pytest.fixture
async def judge() -> AsyncIterator[Grammars]:
    judge = Grammars(Llm())
    yield judge
    judge.close()


def arguments() -> dict[str, Any]:
    return {"structured_outputs": StructuredOutputsParams(regex="a")}


async def test_nothing_is_compiled_on_the_event_loop(judge: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    monkeypatch.setattr(SamplingParams, "verify", lambda *_: threads.append(threading.current_thread()))
    asked = arguments()
    await judge.judge("regex", ASKED, asked)
    sink: Any = SimpleNamespace(measured=Measured(), exact=True)
    run = VllmRun(Llm(), EngineRequest("gen-1", g.GenerationSpec(sampling_params=ASKED)), sink)
    await run.begin_choice(0, [1], asked)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_what_takes_too_long_is_refused_and_holds_nothing_up(judge: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    slow = arguments()["structured_outputs"]

    def verify(params: SamplingParams, *_: Any) -> None:
        if params.structured_outputs is slow:
            released.wait()

    monkeypatch.setattr(SamplingParams, "verify", verify)
    monkeypatch.setattr(grammars, "LONGEST_JUDGEMENT", 0.05)
    try:
        with pytest.raises(InvalidRequestError, match=r"spec\.sampling_params\.regex: was not compiled within 0\.05 s"):
            await judge.judge("regex", ASKED, {"structured_outputs": slow})
        monkeypatch.setattr(grammars, "LONGEST_JUDGEMENT", 60)
        await asyncio.wait_for(judge.judge("regex", ASKED, arguments()), 30)
    finally:
        released.set()


async def test_an_error_that_no_compiler_wrote_is_not_repeated(judge: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(*_: Any) -> None:
        raise TypeError("'int' object is not subscriptable")

    monkeypatch.setattr(SamplingParams, "verify", verify)
    with pytest.raises(InvalidRequestError) as caught:
        await judge.judge("regex", ASKED, arguments())
    assert caught.value.message == "spec.sampling_params.regex: the engine cannot compile it"


@pytest.mark.parametrize(("text", "context"), [("abc", 3), ("ab\ufffd", 2), ("a\ufffd\ufffd", 1), ("\ufffd\ufffd", 0), ("", 0)])
def test_a_text_begins_after_the_prompt_s_last_complete_character(text: str, context: int) -> None:
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(map(chr, ids)))
    prompt = [ord(character) for character in text]
    assert seam.context_of(tokenizer, prompt, skip_special_tokens=True) == prompt[:context]
    assert seam.ends_within_character(tokenizer, prompt, skip_special_tokens=True) is (context < len(text))
