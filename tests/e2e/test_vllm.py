"""The whole path on a real vLLM with the demo model."""

import asyncio
import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from transformers import AutoTokenizer

from tests.integration.test_calls import reason
from tests.support.local_stack import ROOT, LocalStack
from tests.support.waiting import eventually
from tokenrelay import errors
from tokenrelay.client import AsyncClient
from tokenrelay.client.resumption import digest
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.vllm

STORY = "Tell me a story about a lighthouse."
HELLO = "Say hello in ten languages."
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 200}


@pytest.fixture
def client_targets(vllm_stack: LocalStack) -> str:
    return ",".join(vllm_stack.targets)


@pytest.fixture(scope="session")
def tokenizer(vllm_stack: LocalStack) -> Any:
    return AutoTokenizer.from_pretrained(vllm_stack.settings.model)


def metric(stack: LocalStack, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.metrics_port('engine-1')}/metrics", timeout=5) as response:
        text = response.read().decode()
    found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not among the metrics"
    return sum(map(float, found))


async def test_a_story_comes_out_readable_and_ends_by_itself(client_targets: str) -> None:
    async with AsyncClient(client_targets) as client, client.stream(STORY, temperature=0, max_tokens=600) as stream:
        deltas = [delta async for delta in stream]
    text = "".join(delta.text for delta in deltas)
    assert len(deltas) > 20, "it comes in pieces"
    assert len(re.findall(r"[A-Z][^.!?]{3,}[.!?]", text)) >= 5, text
    assert stream.finished is not None
    assert [end.finish_reason for end in stream.finished.choices] == [g.FINISH_REASON_STOP]
    assert stream.finished.exact


async def test_greedy_answers_are_the_same_alone_and_among_others(client_targets: str) -> None:
    async with AsyncClient(client_targets) as client:
        alone = await client.generate(STORY, **GREEDY)
        many = await asyncio.gather(*(client.generate(STORY if n % 2 else HELLO, **GREEDY) for n in range(16)))
        assert {tuple(one.choices[0].token_ids) for one in many[1::2]} == {tuple(alone.choices[0].token_ids)}
        assert len({tuple(one.choices[0].token_ids) for one in many[::2]}) == 1


async def test_token_ids_text_and_chat_are_prompts(client_targets: str, tokenizer: Any) -> None:
    async with AsyncClient(client_targets) as client:
        by_text = await client.generate(STORY, **GREEDY)
        by_ids = await client.generate(tokenizer.encode(STORY), **GREEDY)
        assert by_text.choices[0].token_ids == by_ids.choices[0].token_ids
        messages = [{"role": "user", "content": "What is a queue?"}]
        by_chat = await client.generate(messages, **GREEDY)
        laid_out = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        again = await client.generate(laid_out, **GREEDY)
        assert by_chat.choices[0].text == again.choices[0].text
        assert by_chat.usage.prompt_tokens == len(laid_out)


async def test_text_is_what_the_tokens_say_and_the_digest_fits(client_targets: str, tokenizer: Any) -> None:
    async with AsyncClient(client_targets) as client:
        for prompt in (STORY, HELLO):
            whole = await client.generate(prompt, **GREEDY)
            (choice,) = whole.choices
            assert choice.text.strip() == tokenizer.decode(list(choice.token_ids), skip_special_tokens=True).strip()
            assert whole.digest == digest([list(choice.token_ids)])
        assert any(ord(character) > 0x2FF for character in choice.text), "the greeting has characters of many bytes"
        assert "\ufffd" not in choice.text


async def test_the_prefix_cache_is_counted(client_targets: str) -> None:
    prompt = STORY + " " + STORY * 20
    async with AsyncClient(client_targets) as client:
        await client.generate(prompt, temperature=0, max_tokens=1)
        again = await client.generate(prompt, temperature=0, max_tokens=1)
    assert 0 < again.usage.cached_tokens < again.usage.prompt_tokens


async def test_logprobs(client_targets: str) -> None:
    async with AsyncClient(client_targets) as client:
        whole = await client.generate(STORY, temperature=0, max_tokens=5, logprobs=3, prompt_logprobs=2)
        (choice,) = whole.choices
        assert len(choice.logprobs) == 5
        for token, position in zip(choice.token_ids, choice.logprobs, strict=True):
            best = position.candidates[0]
            assert (best.token_id, best.rank) == (token, 1)
            assert all(one.logprob <= best.logprob <= 0 for one in position.candidates)
            assert 3 <= len(position.candidates) <= 4
        stored = await client.get(whole.generation_id)
        assert stored.prompt_logprobs == whole.prompt_logprobs
        assert len(stored.prompt_logprobs) == whole.usage.prompt_tokens
        assert not stored.prompt_logprobs[0].candidates
        assert all(position.candidates for position in stored.prompt_logprobs[1:])


async def test_the_prompt_s_logprobs_come_with_the_first_choice_only(client_targets: str) -> None:
    async with (
        AsyncClient(client_targets) as client,
        client.stream(STORY, temperature=1, max_tokens=5, n=2, prompt_logprobs=1) as stream,
    ):
        deltas = [delta async for delta in stream]
    assert stream.finished is not None
    assert sum(len(delta.prompt_logprobs) for delta in deltas if delta.index == 0) == stream.finished.usage.prompt_tokens
    assert not any(delta.prompt_logprobs for delta in deltas if delta.index == 1)


async def test_choices_are_seeded_each_on_its_own(client_targets: str) -> None:
    sampling: dict[str, Any] = {"n": 3, "seed": 11, "temperature": 2, "max_tokens": 60, "ignore_eos": True}
    async with AsyncClient(client_targets) as client:
        first, second = [await client.generate("Once upon a time", **sampling) for _ in range(2)]
        third = await client.generate("Once upon a time", **{**sampling, "n": 1, "seed": 12})
    texts = [choice.text for choice in first.choices]
    assert len(set(texts)) == 3
    assert texts == [choice.text for choice in second.choices]
    assert third.choices[0].text == texts[1], "choice i has seed + i"
    assert first.usage.completion_tokens == 180


async def test_stop_strings_end_the_text_before_the_match(client_targets: str) -> None:
    async with AsyncClient(client_targets) as client:
        whole = (await client.generate(STORY, **GREEDY)).choices[0].text
        stop = whole[40:48]
        stopped = (await client.generate(STORY, stop=[stop], **GREEDY)).choices[0]
        kept = (await client.generate(STORY, stop=[stop], include_stop_str_in_output=True, **GREEDY)).choices[0]
    assert stopped.text == whole[: whole.index(stop)]
    assert kept.text == whole[: whole.index(stop) + len(stop)]
    assert stopped.end.stop_string == stop


async def test_structured_output(client_targets: str) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    async with AsyncClient(client_targets) as client:
        by_schema = await client.generate("Answer:", temperature=0, max_tokens=60, json_schema=json.dumps(schema))
        assert isinstance(json.loads(by_schema.choices[0].text)["ok"], bool)
        by_regex = await client.generate("Answer:", temperature=0, max_tokens=30, regex="(cat|dog) [0-9]{2}")
        assert re.fullmatch("(cat|dog) [0-9]{2}", by_regex.choices[0].text)
        by_choice = await client.generate("Answer:", temperature=0, max_tokens=30, choice=["red", "blue"])
        assert by_choice.choices[0].text in ("red", "blue")


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        ({"regex": "(unclosed"}, r"spec\.sampling_params\.regex:"),
        ({"json_schema": '{"type": "no such type"}'}, r"spec\.sampling_params\.json_schema:"),
        ({"grammar": "root ::= ("}, r"spec\.sampling_params\.grammar:"),
        ({"logprobs": 1_000}, r"spec\.sampling_params\.logprobs:"),
    ],
)
async def test_what_vllm_finds_wrong_is_the_client_s(client_targets: str, sampling: dict[str, Any], told: str) -> None:
    async with AsyncClient(client_targets) as client:
        with pytest.raises(errors.InvalidRequestError, match=told) as caught:
            await client.generate("Answer:", max_tokens=5, **sampling)
        assert "Traceback" not in caught.value.message
        name = await client.submit("Answer:", max_tokens=5, **sampling)
        await eventually_state(client, name, g.GENERATION_STATE_FAILED)
        assert (await client.get(name)).error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert (await client.generate("Hello!", temperature=0, max_tokens=3)).usage.completion_tokens, "the next one passes"


async def eventually_state(client: AsyncClient, name: str, state: int) -> None:
    async def reached() -> bool:
        return (await client.get(name)).state == state

    await eventually(reached, f"{name} reaches {g.GenerationState.Name(state)}")  # type: ignore[arg-type]


async def test_a_prompt_longer_than_the_context_fails_with_the_counts(client_targets: str) -> None:
    async with AsyncClient(client_targets) as client:
        with pytest.raises(
            errors.InvalidRequestError, match=r"spec.text: \d{4,} prompt tokens and 1 to generate are more than"
        ):
            await client.generate("lighthouse " * 5000)
        with pytest.raises(errors.InvalidRequestError, match="and 2040 to generate are more than the context of 2048"):
            await client.generate("the sea and the wind and the rain", max_tokens=2040)


async def test_a_cancelled_stream_is_freed_in_the_engine_before_its_end(vllm_stack: LocalStack) -> None:
    async with AsyncClient(vllm_stack.targets) as client:  # noqa: SIM117
        async with client.stream(STORY, temperature=0, max_tokens=1900, ignore_eos=True) as stream:
            async for _ in stream:
                if stream.position.sequence >= 5:
                    break
            assert metric(vllm_stack, "tokenrelay_engine_running") == 1
            await client.cancel(stream.generation_id)

            def freed() -> bool:
                return metric(vllm_stack, "tokenrelay_engine_running") == 0 == metric(vllm_stack, "vllm:num_requests_running")

            await eventually(freed, "the engine has freed it")
            with pytest.raises(errors.GenerationCancelledError):
                async for _ in stream:
                    pass


async def test_two_halves_through_two_gateways_are_the_whole(vllm_stack: LocalStack) -> None:
    """With bare stubs: a stream that its client leaves half-way, and the rest of it through the other gateway."""
    spec = g.GenerationSpec(text=HELLO, sampling_params=g.SamplingParams(temperature=0, max_tokens=300, ignore_eos=True))
    first, second = vllm_stack.targets
    async with grpc.aio.insecure_channel(first) as one, grpc.aio.insecure_channel(second) as two:
        stub: Any = generation_service_pb2_grpc.GenerationServiceStub(one)
        other: Any = generation_service_pb2_grpc.GenerationServiceStub(two)
        whole = (await stub.Generate(s.GenerateRequest(spec=spec))).generation.choices[0]
        policy = g.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
        call = stub.GenerateStream(s.GenerateStreamRequest(spec=spec, on_disconnect=policy))
        half: list[g.GenerationEvent] = []
        async for response in call:
            half.append(response.event)
            if response.event.sequence >= 100:
                break
        call.cancel()
        name = half[0].accepted.generation_id
        request = s.AttachGenerationRequest(generation_id=name, after_sequence=half[-1].sequence)
        rest = [response.event async for response in other.AttachGeneration(request)]
    assert [t for e in half + rest for t in e.delta.token_ids] == list(whole.token_ids)
    assert "".join(e.delta.text for e in half + rest) == whole.text
    assert rest[-1].HasField("finished")


async def test_hops_add_up_and_are_within_what_the_client_measured(client_targets: str) -> None:
    async with AsyncClient(client_targets) as client:
        await client.models()
        started = time.perf_counter()
        async with client.stream(STORY, **GREEDY) as stream:
            async for _ in stream:
                pass
        measured_us = (time.perf_counter() - started) * 1e6
    assert stream.finished is not None
    times = stream.finished.timings
    total_us = times.total.ToMicroseconds()
    assert sum(hop.duration.ToMicroseconds() for hop in times.hops) == total_us
    assert [hop.kind for hop in times.hops] == list(range(1, 11))
    assert total_us <= measured_us


async def test_a_killed_worker_s_stream_goes_on_token_for_token(vllm_stack: LocalStack) -> None:
    async with AsyncClient(vllm_stack.targets) as client:
        for prompt in (STORY, HELLO):
            sampling: dict[str, Any] = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}
            undisturbed = (await client.generate(prompt, **sampling)).choices[0]
            texts: list[str] = []
            ids: list[int] = []
            async with client.stream(prompt, **sampling) as stream:
                async for delta in stream:
                    texts.append(delta.text)
                    ids.extend(delta.token_ids)
                    if len(texts) == 50:
                        vllm_stack.kill("worker-1", signal.SIGKILL)
            assert ids == list(undisturbed.token_ids)
            assert "".join(texts) == undisturbed.text
            assert stream.finished is not None
            assert (stream.finished.attempts, stream.finished.exact) == (2, True)


async def test_after_a_takeover_logprobs_have_their_text(vllm_stack: LocalStack) -> None:
    async with AsyncClient(vllm_stack.targets) as client:
        sampling: dict[str, Any] = {"temperature": 0, "max_tokens": 1000, "ignore_eos": True, "logprobs": 1}
        undisturbed = (await client.generate(HELLO, **sampling)).choices[0]
        texts: list[list[str]] = []
        async with client.stream(HELLO, **sampling) as stream:
            async for delta in stream:
                before = len(texts)
                texts.extend([one.text for one in position.candidates] for position in delta.logprobs)
                if before < 50 <= len(texts):
                    vllm_stack.kill("worker-1", signal.SIGKILL)
    assert stream.finished is not None
    assert stream.finished.attempts == 2
    assert texts == [[one.text for one in position.candidates] for position in undisturbed.logprobs]


async def test_a_killed_engine_leaves_no_process_and_its_stream_goes_on(vllm_stack: LocalStack) -> None:
    async with AsyncClient(vllm_stack.targets) as client:
        sampling: dict[str, Any] = {"temperature": 0, "max_tokens": 1500, "ignore_eos": True}
        undisturbed = (await client.generate(HELLO, **sampling)).choices[0]
        texts: list[str] = []
        async with client.stream(HELLO, **sampling) as stream:
            async for delta in stream:
                texts.append(delta.text)
                if len(texts) == 30:
                    await kill_with_children(vllm_stack)
        assert "".join(texts) == undisturbed.text
        assert stream.finished is not None
        assert (stream.finished.attempts, stream.finished.exact) == (2, True)


async def kill_with_children(stack: LocalStack) -> None:
    children = set(descendants(stack.pid("engine-1")))
    assert children, "vLLM has processes of its own"
    stack.kill("engine-1", signal.SIGKILL)
    await eventually(lambda: not any(map(alive, children)), "vLLM's processes have died with the service")


def descendants(pid: int) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                yield int(entry)
                yield from descendants(int(entry))


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("line", ["loading model", "(EngineCore pid="])
async def test_an_engine_service_ends_while_it_loads(line: str) -> None:
    settings = {"TOKENRELAY_MODEL": "models/demo", "TOKENRELAY_PORT": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine_service"),
        env={**os.environ, **settings},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        while line not in (said := (await process.stdout.readline()).decode()):
            assert said, "it ended by itself"
        process.terminate()
        # The output's end comes when all processes that have it open are gone; loading takes longer than this.
        rest = await asyncio.wait_for(process.stdout.read(), 20)
        assert await process.wait() == 0, rest.decode()
    finally:
        with suppress(ProcessLookupError):
            process.kill()


async def test_a_refusal_by_bare_stub_has_a_reason(vllm_stack: LocalStack) -> None:
    async with grpc.aio.insecure_channel(vllm_stack.targets[0]) as channel:
        stub: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(s.GenerateRequest(spec=g.GenerationSpec(text="x", model="gpt")))
        assert reason(caught.value) == "MODEL_NOT_FOUND"
        assert "known: demo" in (caught.value.details() or "")
