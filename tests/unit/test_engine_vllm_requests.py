"""What a real vLLM engine answers to requests that it alone can judge: one engine process for all of these tests."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes.ports import free_ports
from tests.support.local_stack import ROOT
from tokenrelay.engine.v1 import engine_service_pb2 as e
from tokenrelay.engine.v1 import engine_service_pb2_grpc
from tokenrelay.errors import InvalidRequestError
from tokenrelay.status import from_status
from tokenrelay.v1 import generation_pb2 as g

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180)]

PATIENCE = 60  # seconds for an answer
HELLO = [1958, 644]  # "Hello world"
PART_OF_AN_EMOJI = [226, 178, 259, 240]  # a space, and three bytes of four
STOP, LENGTH = g.FINISH_REASON_STOP, g.FINISH_REASON_LENGTH


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_ports()
    settings = {"TOKENRELAY_MODEL": "models/demo", "TOKENRELAY_PORT": str(port), "TOKENRELAY_LOG_LEVEL": "warning"}
    environment = {**os.environ, **settings, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    log = tmp_path_factory.mktemp("engine") / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "engine_service"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_serving(process, port)
            yield port
        finally:
            process.kill()
            process.wait()


def wait_until_serving(process: "subprocess.Popen[bytes]", port: int) -> None:
    with closing(grpc.insecure_channel(f"127.0.0.1:{port}")) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            assert process.poll() is None, "the engine has ended"
            try:
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass  # it does not listen yet
            time.sleep(0.1)


@dataclass
class Answer:
    """What came of one generation."""

    token_ids: dict[int, list[int]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    deltas: list[g.Delta] = field(default_factory=list)
    summary: e.EngineSummary | None = None
    error: InvalidRequestError | None = None
    longest_gap: float = 0.0  # seconds between frames

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def fields(self) -> list[str]:
        assert self.error is not None, self
        assert type(self.error) is InvalidRequestError, self.error
        return [violation.field for violation in self.error.violations]


class Engine:
    """A worker's side of an engine service."""

    def __init__(self, channel: Any) -> None:
        self._stub: Any = engine_service_pb2_grpc.EngineServiceStub(channel)

    async def generate(self, spec: g.GenerationSpec, *emitted: e.EmittedChoice, begun: asyncio.Event | None = None) -> Answer:
        call, answer = self._stub.RunSession(), Answer()
        start = e.StartGeneration(key=1, generation_id="gen-1", spec=spec.SerializeToString(), emitted=emitted)
        await call.write(e.RunSessionRequest(starts=[start]))
        last = None
        while True:
            frame = await asyncio.wait_for(call.read(), PATIENCE)
            assert frame is not grpc.aio.EOF
            now = time.monotonic()
            answer.longest_gap = max(answer.longest_gap, now - (last or now))
            last = now
            if begun is not None:
                begun.set()
            for output in frame.outputs:
                delta = g.Delta.FromString(output.delta)
                answer.deltas.append(delta)
                answer.token_ids.setdefault(output.index, []).extend(delta.token_ids)
                answer.texts[output.index] = answer.texts.get(output.index, "") + delta.text
                if output.HasField("error"):
                    error = from_status(output.error)
                    assert isinstance(error, InvalidRequestError), error
                    answer.error = error
                if output.HasField("summary"):
                    answer.summary = output.summary
            await call.write(e.RunSessionRequest(acknowledged_frame=frame.frame))
            if answer.error is not None or answer.summary is not None:
                await call.done_writing()
                return answer

    async def sample(self, **params: Any) -> Answer:
        return await self.generate(tokens(HELLO, **params))


@pytest.fixture
async def engine(port: int) -> AsyncIterator[Engine]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Engine(channel)


def tokens(ids: list[int], **params: Any) -> g.GenerationSpec:
    return g.GenerationSpec(
        token_ids=g.TokenIds(ids=ids), sampling_params=g.SamplingParams(**{"temperature": 0, "max_tokens": 20, **params})
    )


def schema(value: object) -> dict[str, str]:
    return {"json_schema": json.dumps(value)}


def tag(value: object) -> dict[str, str]:
    return {"structural_tag": json.dumps(value)}


TYPED_TAG = {"type": "structural_tag", "format": {"type": "const_string", "value": "yes"}}
TOO_BIG_FOR_A_LIST = [f"text {number}" for number in range(5000)]


@pytest.mark.parametrize(
    "params",
    [
        {"regex": r"\p{L}+"},
        {"regex": "a++"},
        {"regex": "(a"},
        {"regex": r"(a)\1"},
        {"regex": r"[^\s\S]"},
        {"regex": r"a[^\s\S]"},
        {"regex": "(" + "a" * 8000},
        {"grammar": 'root ::= "a"\nroot ::= "b"'},
        {"grammar": "root ::= root"},
        {"grammar": "root ::= ("},
        {"grammar": 'x ::= "a"'},
        {"grammar": "start: start"},
        schema({"$ref": "#"}),
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        schema({"not": {}}),
        schema({"not": True}),
        schema({"allOf": [{"not": {}}]}),
        schema({"anyOf": []}),
        schema({"enum": []}),
        schema({"type": "integer", "minimum": 5, "maximum": 3}),
        schema({"type": "integer", "multipleOf": 7}),
        schema({"type": "string", "format": ["x"]}),
        schema({"type": "no such type"}),
        tag({"structures": [1], "triggers": []}),
        tag({}),
        tag({"type": "structural_tag", "format": {"type": "nope"}}),
    ],
    ids=lambda params: next(iter(params.values()))[:40],
)
async def test_a_structure_that_cannot_be_followed_is_the_client_s_and_names_its_field(
    engine: Engine, params: dict[str, Any]
) -> None:
    answer = await engine.sample(**params)
    assert answer.fields == [f"spec.sampling_params.{next(iter(params))}"]
    assert answer.error is not None
    message = answer.error.message
    assert "object is not" not in message
    assert "unhashable" not in message
    assert not message.endswith((":", "error_id gen-1"))
    assert len(message) < 600
    assert (await engine.sample(regex="(cat|dog)")).text in ("cat", "dog"), "the next one passes"


@pytest.mark.parametrize(
    ("params", "texts"),
    [
        ({"choice": g.Choices(texts=TOO_BIG_FOR_A_LIST)}, TOO_BIG_FOR_A_LIST),
        (tag(TYPED_TAG), ["yes"]),
        ({"grammar": 'root ::= "a" | "b"'}, ["a", "b"]),
        (schema({"enum": ["x", 1]}), ['"x"', "1"]),
        ({"regex": "(cat|dog)"}, ["cat", "dog"]),
    ],
    ids=["choice", "structural_tag", "grammar", "json_schema", "regex"],
)
async def test_each_kind_of_structure_is_followed_whatever_was_asked_before(
    engine: Engine, params: dict[str, Any], texts: list[str]
) -> None:
    refused = await engine.sample(regex=r"\p{L}+")
    assert refused.error is not None, "its like must not decide what compiles the others"
    assert (await engine.sample(**params)).text in texts


async def test_choices_of_a_request_share_a_structure(engine: Engine) -> None:
    answer = await engine.sample(n=3, temperature=1, choice=g.Choices(texts=["red", "blue"]))
    assert len(answer.texts) == 3
    assert set(answer.texts.values()) <= {"red", "blue"}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("logprobs", {"logprobs": 21}),
        ("logprobs", {"logprobs": -1}),
        ("prompt_logprobs", {"prompt_logprobs": 21}),
        ("bad_words", {"bad_words": [" "]}),
        ("bad_words", {"bad_words": [f"word {number}" for number in range(600)]}),
        ("thinking_token_budget", {"thinking_token_budget": 5}),
        ("logprob_token_ids", {"logprob_token_ids": [5, 6], "logprobs": 1}),
        ("logprob_token_ids", {"logprob_token_ids": list(range(129))}),
        ("min_tokens", {"min_tokens": 2047, "max_tokens": None}),
        ("min_tokens", {"min_tokens": 5, "stop_token_ids": list(range(2048))}),
        ("min_tokens", {"min_tokens": 5, "allowed_token_ids": [2, 9], "stop_token_ids": [9]}),
        ("bad_words", {"allowed_token_ids": HELLO[:1], "bad_words": ["Hello"]}),
    ],
)
async def test_what_the_engine_does_not_take_names_the_field(engine: Engine, name: str, params: dict[str, Any]) -> None:
    assert (await engine.sample(**params)).fields == [f"spec.sampling_params.{name}"]


async def test_min_tokens_too_many_for_the_context_are_told_with_the_limit(engine: Engine) -> None:
    answer = await engine.sample(min_tokens=2047, max_tokens=None)
    assert answer.error is not None
    assert "is 2047; at most 2046" in answer.error.message
    assert "max_tokens=" not in answer.error.message, "it was never set"


@pytest.mark.parametrize("params", [{}, {"stop": ["!"]}, {"logprobs": 1, "prompt_logprobs": 1}, {"n": 2, "temperature": 1}])
@pytest.mark.parametrize("prompt", [[*HELLO, *PART_OF_AN_EMOJI], [*HELLO, 226], PART_OF_AN_EMOJI[1:], [178] * 70])
async def test_the_prompt_is_no_part_of_the_answer_s_text(engine: Engine, prompt: list[int], params: dict[str, Any]) -> None:
    answer = await engine.generate(tokens(prompt, **params))
    assert answer.summary is not None
    for index, text in answer.texts.items():
        # Each token's text is short; with the prompt's in it, the first piece would be longer than the tokens allow.
        assert "Hello world" not in text
        assert text.count("\ufffd") <= len(answer.token_ids[index])
    if params.get("stop"):
        assert "!" not in answer.text
        assert answer.summary.choices[0].finish_reason in (STOP, LENGTH)
    if params.get("logprobs"):
        found = [position for delta in answer.deltas for position in delta.prompt_logprobs]
        assert len(found) == len(prompt)
        assert not any("Hello" in position.candidates[0].text for delta in answer.deltas[:1] for position in delta.logprobs[:1])


async def test_a_text_that_ends_with_the_replacement_character_is_no_part_of_the_answer(engine: Engine) -> None:
    params = g.SamplingParams(temperature=0, max_tokens=12)
    answer = await engine.generate(g.GenerationSpec(text="Hello world \ufffd", sampling_params=params))
    assert "Hello world" not in answer.text


@pytest.mark.parametrize("prompt", [[*HELLO, *PART_OF_AN_EMOJI], HELLO])
async def test_after_a_takeover_the_text_is_what_it_would_have_been(engine: Engine, prompt: list[int]) -> None:
    undisturbed = await engine.generate(tokens(prompt))
    for out in (1, 2, 5):
        ids = undisturbed.token_ids[0][:out]
        first = await engine.generate(tokens(prompt, max_tokens=out))
        emitted = e.EmittedChoice(index=0, token_ids=ids, text_length=len(first.text))
        rest = await engine.generate(tokens(prompt), emitted)
        assert first.text + rest.text == undisturbed.text
        assert ids + rest.token_ids[0] == undisturbed.token_ids[0]


async def test_long_texts_are_refused_without_being_tokenized(engine: Engine) -> None:
    text = g.GenerationSpec(text="lighthouse " * 360_000)
    chat = g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="user", content=text.text)]))
    small = g.GenerationSpec(text="hi", sampling_params=g.SamplingParams(max_tokens=1))
    # All of these take a second of the tokenizer each, one after the other.
    finished: list[str] = []

    async def generate(name: str, spec: g.GenerationSpec) -> Answer:
        answer = await engine.generate(spec)
        finished.append(name)
        return answer

    *refused, one = await asyncio.gather(*(generate("long", spec) for spec in (text, chat) * 3), generate("small", small))
    assert one.summary is not None
    assert [answer.fields for answer in refused] == [["spec.text"], ["spec.chat"]] * 3
    assert all("than the context of 2048" in answer.error.message for answer in refused if answer.error)


async def test_a_text_that_fits_is_not_refused_by_its_length(engine: Engine) -> None:
    answer = await engine.generate(g.GenerationSpec(text=" " * 2_000, sampling_params=g.SamplingParams(max_tokens=1)))
    assert answer.summary is not None


@pytest.mark.parametrize("seed", [-1, -2, 2**63 - 1, -(2**63)])
async def test_every_seed_repeats_all_choices(engine: Engine, seed: int) -> None:
    first, second = [await engine.sample(seed=seed, n=3, temperature=2) for _ in range(2)]
    assert len(set(first.texts.values())) == 3
    assert first.texts == second.texts
