"""What the adapter makes of vLLM's outcomes, without an engine: errors, aborts, and chats that cannot be rendered."""

import asyncio
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine_service import sampling
from engine_service.engines import EngineRequest, Measured, Tokens
from engine_service.settings import EngineSettings
from tests.support.local_stack import ROOT
from tests.support.waiting import eventually
from tokenrelay.engine.v1 import engine_service_pb2 as e
from tokenrelay.errors import EngineDiedError, EngineUnavailableError, InternalError, InvalidRequestError, TokenrelayError
from tokenrelay.v1 import generation_pb2 as g

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's and vLLM's own, when they are imported
    from transformers import AutoTokenizer
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.renderers import renderer_from_config
    from vllm.v1.engine.exceptions import EngineDeadError

    from engine_service.engines.vllm import errors
    from engine_service.engines.vllm.engine_arguments import engine_arguments
    from engine_service.engines.vllm.prompts import Prompts
    from engine_service.engines.vllm.receiver import Receiver
    from engine_service.engines.vllm.run import VllmRun


class Sink:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.measured = Measured()
        self.exact = True
        self.emitted: list[Tokens] = []
        self.errors: list[TokenrelayError] = []

    def emit(self, tokens: Tokens) -> None:
        self.emitted.append(tokens)

    def fail(self, error: TokenrelayError) -> None:
        self.errors.append(error)


class Llm:
    """Stands in for AsyncLLM; aborting, it puts an output of its own, as that does."""

    errored = False

    def __init__(self) -> None:
        self.receivers: dict[str, Receiver] = {}
        self.aborted: asyncio.Queue[list[str]] = asyncio.Queue()

    async def abort(self, request_ids: list[str], *, internal: bool) -> None:
        for name in request_ids:
            self.receivers[name].put(output("abort"))
        self.aborted.put_nowait(list(request_ids))


def output(finish_reason: str | None, *token_ids: int) -> RequestOutput:
    completion = CompletionOutput(0, "x", list(token_ids), None, None, finish_reason=finish_reason)
    return RequestOutput("id", None, [1], None, [completion], finished=finish_reason is not None)


@pytest.fixture
def run() -> VllmRun:
    llm = Llm()
    run = VllmRun(llm, EngineRequest("gen-1", g.GenerationSpec()), Sink(), ["a", "b"])
    llm.receivers = {name: Receiver(run, index, name, None) for index, name in enumerate(run.request_ids)}
    return run


@pytest.mark.parametrize(
    ("finish_reason", "kind", "told"),
    [
        ("error", InternalError, "gen-1"),
        ("a reason of the future", InternalError, "gen-1"),
        ("abort", EngineUnavailableError, "the engine stops"),
    ],
)
async def test_an_end_that_is_no_good_end_fails_the_generation(
    run: VllmRun, finish_reason: str, kind: type[TokenrelayError], told: str
) -> None:
    llm: Any = run.llm
    sink: Any = run.sink
    llm.receivers["a"].put(output(None, 5))
    llm.receivers["a"].put(output(finish_reason, 6))
    llm.receivers["b"].put(output(None, 7))
    assert [type(error) for error in sink.errors] == [kind]
    assert told in sink.errors[0].message
    assert [list(tokens.token_ids) for tokens in sink.emitted] == [[5]]
    assert await asyncio.wait_for(llm.aborted.get(), 60) == ["a", "b"], "the other choice does not go on"
    assert len(sink.errors) == 1


def structured(**params: Any) -> tuple[VllmRun, Receiver]:
    run = VllmRun(Llm(), EngineRequest("gen-1", g.GenerationSpec(sampling_params=g.SamplingParams(**params))), Sink(), ["a"])
    run.llm.receivers = {"a": Receiver(run, 0, "a", None)}
    return run, run.llm.receivers["a"]


async def test_structured_output_that_the_engine_core_gives_up_is_the_client_s() -> None:
    run, receiver = structured(regex="a")
    receiver.put(output(None, 5))
    receiver.put(output("error", 6))
    (error,) = run.sink.errors  # type: ignore[attr-defined]
    assert [violation.field for violation in error.violations] == ["spec.sampling_params.regex"]


@pytest.mark.parametrize(
    ("params", "text", "is_wrong"),
    [({"json_object": True}, "", True), ({"json_object": True}, "x", False), ({"regex": "a*"}, "", False)],
)
async def test_json_that_ends_without_any_text_was_impossible(params: dict[str, Any], text: str, is_wrong: bool) -> None:
    run, receiver = structured(**params)
    ended = output("stop", 2)
    ended.outputs[0].text = text
    receiver.put(ended)
    sink: Any = run.sink
    assert (len(sink.errors), len(sink.emitted)) == ((1, 0) if is_wrong else (0, 1))


def test_structured_output_never_depends_on_what_was_asked_first() -> None:
    """vLLM's "auto" chooses a backend for each request, but its core keeps the first one's."""
    for command_line, backend in (([], "xgrammar"), (["--structured-outputs-config.backend=guidance"], "guidance")):
        settings = EngineSettings(model=str(ROOT / "models/demo"), vllm_args=" ".join(command_line))
        assert engine_arguments(settings).create_engine_config().structured_outputs_config.backend == backend


@pytest.mark.parametrize(
    ("error", "field", "told"),
    [
        (
            VLLMValidationError("too many", parameter="bad_words", value=["x"] * 10_000),
            "spec.sampling_params.bad_words",
            "too many",
        ),
        (VLLMValidationError("min_p and logit_bias are not supported"), "spec.sampling_params.min_p", "min_p and"),
        (VLLMValidationError("one line\n   and the next"), "spec", "one line and the next"),
        (VLLMValidationError("x" * 10_000), "spec", "…"),
        (VLLMValidationError("of no field of ours", parameter="extra_args"), "spec", "of no field"),
    ],
)
def test_a_refusal_names_its_field_in_one_bounded_line(error: Exception, field: str, told: str) -> None:
    found = errors.refusal(error)
    (violation,) = found.violations
    assert violation.field == field
    assert told in found.message
    assert "\n" not in found.message
    assert len(found.message) < 600


async def test_a_failing_abort_is_logged(run: VllmRun) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    llm: Any = run.llm
    llm.abort = fail
    with capture_logs() as logs:
        run.abort_soon(["a"])
        await eventually(lambda: [line["event"] for line in logs] == ["vLLM did not abort requests"], "it is logged")


async def test_the_engine_core_s_death_is_told_of_what_was_in_it(run: VllmRun) -> None:
    llm: Any = run.llm
    sink: Any = run.sink
    llm.receivers["a"].put(EngineDeadError())
    assert [type(error) for error in sink.errors] == [EngineDiedError]


async def test_an_abort_that_was_asked_for_is_no_failure(run: VllmRun) -> None:
    await run.cancel()
    sink: Any = run.sink
    assert (sink.errors, sink.emitted) == ([], [])


def test_only_the_first_choice_computes_the_prompt_s_logprobs() -> None:
    params = g.SamplingParams(n=2, logprobs=1, prompt_logprobs=2)
    assert sampling.keyword_arguments(params, 0) == {"logprobs": 1, "prompt_logprobs": 2}
    assert sampling.keyword_arguments(params, 1) == {"logprobs": 1}


async def test_a_continuation_does_not_compute_the_prompt_s_logprobs_again() -> None:
    class Refusing(Llm):
        model_config = SimpleNamespace(max_model_len=100)

        def get_tokenizer(self) -> Any:
            return AutoTokenizer.from_pretrained(ROOT / "models/demo")

        async def add_request(self, _: str, prompt: Any, params: SamplingParams) -> None:
            asked.append(params)
            raise LookupError

    asked: list[SamplingParams] = []
    run = VllmRun(Refusing(), EngineRequest("gen-1", g.GenerationSpec()), Sink())
    emitted = e.EmittedChoice(index=0, token_ids=[5, 6], text_length=2)
    with pytest.raises(LookupError):
        await run.continue_choice(0, [1, 2], {"max_tokens": 9, "logprobs": 1, "prompt_logprobs": 2}, emitted)
    assert [(params.max_tokens, params.logprobs, params.prompt_logprobs) for params in asked] == [(7, 1, None)]


def renderer_of(model: Path) -> Any:
    return renderer_from_config(AsyncEngineArgs(model=str(model), enforce_eager=True).create_engine_config())


def chat() -> g.GenerationSpec:
    return g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="user", content="Hello!")]))


async def refusal(model: Path) -> InvalidRequestError:
    renderer = renderer_of(model)
    prompts = Prompts(renderer, 2048)
    try:
        with pytest.raises(InvalidRequestError) as caught:
            await prompts.token_ids(chat())
        assert await prompts.token_ids(g.GenerationSpec(text="Hello!")), "text is taken"
    finally:
        renderer.shutdown()
    assert [violation.field for violation in caught.value.violations] == ["spec.chat"]
    return caught.value


@pytest.fixture
def model(tmp_path: Path) -> Path:
    copied = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in copied:
        shutil.copy(ROOT / "models/demo" / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "spec",
    [g.GenerationSpec(text="x" * 31), g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="user", content="x" * 31)]))],
)
async def test_a_text_too_long_for_any_tokens_is_not_tokenized(spec: g.GenerationSpec) -> None:
    """One thread tokenizes for everybody, and would take a second for each four megabytes."""
    renderer = SimpleNamespace(get_tokenizer=lambda: SimpleNamespace(max_chars_per_token=3))  # it cannot render
    with pytest.raises(
        InvalidRequestError, match=r"11 prompt tokens and 1 to generate are more than the context of 10; no token"
    ):
        await Prompts(renderer, 10).token_ids(spec)


async def test_a_chat_for_a_model_without_a_template_is_the_client_s(model: Path) -> None:
    assert "has no chat template" in (await refusal(model)).message


async def test_what_a_template_refuses_is_the_client_s_with_its_reason(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    assert "roles must alternate" in (await refusal(model)).message


async def test_what_a_renderer_refuses_otherwise_is_the_client_s_without_its_text(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> None:
        raise ValueError("from deep inside")

    (model / "chat_template.jinja").write_text("x")
    monkeypatch.setattr("vllm.renderers.hf.HfRenderer.render_chat_async", refuse)
    assert "deep inside" not in (await refusal(model)).message
