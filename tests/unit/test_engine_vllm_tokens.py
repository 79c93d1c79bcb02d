"""Tokens on their way from vLLM's output processor: as vLLM itself would put them, though it builds no outputs for them."""

import gc
import time
import warnings
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from engine_service.engines import EngineRequest, Measured, Tokens
from tests.support.local_stack import ROOT
from tokenrelay.errors import TokenrelayError
from tokenrelay.v1 import generation_pb2 as g

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's and vLLM's own, when they are imported
    from transformers import AutoTokenizer
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.metrics.stats import IterationStats

    from engine_service.engines.vllm.receiver import Receiver
    from engine_service.engines.vllm.seam import Seam

PROMPT = [1958, 644]
TEXT = "Grüße, 你好 🙂! Now stop here, please, and go on."


class Sink:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.measured = Measured()
        self.exact = True
        self.emitted: list[Tokens] = []

    def emit(self, tokens: Tokens) -> None:
        self.emitted.append(tokens)

    def fail(self, error: TokenrelayError) -> None:
        raise error


class Stream:
    """One request in vLLM's output processor, which is told its steps' tokens without an engine."""

    def __init__(self, tokenizer: Any, **params: Any) -> None:
        self.params = SamplingParams(max_tokens=500, output_kind=RequestOutputKind.DELTA, **params)
        self.processor = OutputProcessor(tokenizer, log_stats=True)
        request = EngineCoreRequest("a", list(PROMPT), None, self.params, None, time.time(), None, None, None)
        request.external_req_id = "outer"
        self.collector = RequestOutputCollector(RequestOutputKind.DELTA, "a")
        self.processor.add_request(request, None, None, 0, self.collector)
        self.aborted: list[str] = []
        self.run = SimpleNamespace(
            request=EngineRequest("gen-1", g.GenerationSpec()), sink=Sink(), over=False, abort_soon=self.aborted.extend
        )

    def receive(self, seam: Seam | None = None) -> None:
        """Has a receiver take the tokens, as after a begin."""
        receiver: Any = Receiver(self.run, 0, "a", seam)
        self.collector.put = receiver.put
        receiver.attach(self.processor.request_states["a"])

    def step(self, *token_ids: int, finish_reason: FinishReason | None = None) -> None:
        given = EngineCoreOutput("a", list(token_ids), finish_reason=finish_reason)
        self.processor.process_outputs([given], time.monotonic(), IterationStats())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(ROOT / "models" / "demo")


def by_vllm(tokenizer: Any, steps: list[list[int]], **params: Any) -> list[tuple[str, list[int]]]:
    """Returns what vLLM's own collector gets."""
    stream, got = Stream(tokenizer, **params), []
    for number, ids in enumerate(steps):
        stream.step(*ids, finish_reason=FinishReason.LENGTH if number == len(steps) - 1 else None)
        if (output := stream.collector.get_nowait()) is not None and output.outputs[0].token_ids:
            got.append((output.outputs[0].text, list(output.outputs[0].token_ids)))
        if output is not None and output.finished:
            break
    return got


def received(tokenizer: Any, steps: list[list[int]], **params: Any) -> Iterator[Tokens]:
    stream = Stream(tokenizer, **params)
    stream.receive()
    for number, ids in enumerate(steps):
        stream.step(*ids, finish_reason=FinishReason.LENGTH if number == len(steps) - 1 else None)
        if stream.run.sink.emitted and stream.run.sink.emitted[-1].end is not None:
            break
    return iter(stream.run.sink.emitted)


@pytest.mark.parametrize("size", [1, 3], ids=["one a step", "three a step"])
@pytest.mark.parametrize("params", [{}, {"stop": ["stop here"]}, {"logprobs": 0}, {"stop": ["!"], "min_tokens": 40}])
def test_the_same_text_and_tokens_as_vllm_gives(tokenizer: Any, params: dict[str, Any], size: int) -> None:
    ids = tokenizer.encode(TEXT)
    steps = [ids[start : start + size] for start in range(0, len(ids), size)]
    ours = list(received(tokenizer, steps, **params))
    assert [(tokens.text, list(tokens.token_ids)) for tokens in ours] == by_vllm(tokenizer, steps, **params)
    assert [tokens.end is not None for tokens in ours] == [False] * (len(ours) - 1) + [True]
    assert len(ours) > 3


def test_a_stop_string_ends_a_stream_with_a_seam(tokenizer: Any) -> None:
    stream = Stream(tokenizer, detokenize=False)
    params = SamplingParams(max_tokens=500, stop=["stop here"], output_kind=RequestOutputKind.DELTA)
    ids = tokenizer.encode(TEXT)
    stream.receive(Seam(tokenizer, PROMPT, params, ids[:5]))  # their text may still become the stop string
    for token in ids[5:]:
        stream.step(token)
    emitted = stream.run.sink.emitted
    assert "".join(tokens.text for tokens in emitted) == TEXT[: TEXT.index("stop here")]
    end = emitted[-1].end
    assert end is not None
    assert (end.finish_reason, end.stop_string) == (g.FINISH_REASON_STOP, "stop here")
    assert stream.aborted == ["a"], "vLLM does not know that it has ended"


@pytest.mark.parametrize("ending", ["end", "cancel"])
def test_vllms_state_goes_with_its_request(tokenizer: Any, ending: str) -> None:
    stream = Stream(tokenizer)
    stream.receive()
    stream.step(5)
    stream.step(6)
    state = weakref.ref(stream.processor.request_states["a"])
    gc.collect()
    gc.disable()
    try:
        if ending == "end":
            stream.step(7, finish_reason=FinishReason.LENGTH)
        else:
            stream.run.over = True
            stream.processor.abort_requests(["a"], internal=True)
        assert state() is None
    finally:
        gc.enable()
    assert len(stream.run.sink.emitted) == (3 if ending == "end" else 2)


def test_the_last_tokens_instant_goes_on(tokenizer: Any) -> None:
    stream = Stream(tokenizer)
    stream.receive()
    stream.step(5)
    measured = stream.run.sink.measured
    first, last = measured.first_token_ns, measured.last_token_ns
    stream.step(6)
    assert first is not None
    assert last is not None
    assert measured.first_token_ns == first
    assert measured.last_token_ns is not None
    assert measured.last_token_ns > last
