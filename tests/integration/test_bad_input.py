"""Bad input and limits: each has its status, names the field and the limit, and loses nothing."""

import math
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from redis.asyncio import Redis

from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read, reason, started, state_of
from tests.integration.test_processes_come_and_go import queued
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def chat(*messages: tuple[str, str]) -> g.GenerationSpec:
    return g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role=role, content=content) for role, content in messages]))


def ids(*values: int, **sampling: Any) -> g.GenerationSpec:
    return g.GenerationSpec(token_ids=g.TokenIds(ids=values), sampling_params=g.SamplingParams(**sampling))


def seconds(value: int) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=value)


P = "spec.sampling_params."
WRONG = [
    ("no spec", {}, "spec: is required"),
    ("no prompt", {"spec": g.GenerationSpec()}, "spec.prompt: one of text, token_ids and chat is required"),
    ("empty text", {"spec": g.GenerationSpec(text="")}, "spec.text: is empty"),
    ("no token ids", {"spec": ids()}, "spec.token_ids.ids: is empty"),
    ("token id not in vocabulary", {"spec": ids(1, 4096)}, "spec.token_ids.ids[1]: 4096 is not in the vocabulary; from 0 to 4095"),
    ("negative token id", {"spec": ids(-1)}, "spec.token_ids.ids[0]: -1 is not in the vocabulary; from 0 to 4095"),
    ("no messages", {"spec": g.GenerationSpec(chat=g.Chat())}, "spec.chat.messages: is empty"),
    ("only empty messages", {"spec": chat(("user", ""))}, "spec.chat.messages: no message has any content"),
    ("unknown role", {"spec": chat(("user", "hi"), ("robot", "hi"))}, "spec.chat.messages[1].role: 'robot' is unknown; one of system"),
    ("max_tokens 0", {"spec": spec(max_tokens=0)}, P + "max_tokens: is 0; must be at least 1 and at most 131071"),
    ("max_tokens past the context", {"spec": spec(max_tokens=131_072)}, P + "max_tokens: is 131072; must be at least 1 and at most 131071"),
    ("prompt and answer past the context", {"spec": ids(*[1] * 100, max_tokens=131_000)}, "100 prompt tokens and 131000 to generate are more than the context of 131072"),
    ("temperature NaN", {"spec": spec(temperature=math.nan)}, P + "temperature: is nan; must be from 0 to 2"),
    ("temperature negative", {"spec": spec(temperature=-0.5)}, P + "temperature: is -0.5; must be from 0 to 2"),
    ("temperature infinite", {"spec": spec(temperature=math.inf)}, P + "temperature: is inf; must be from 0 to 2"),
    ("top_p 0", {"spec": spec(top_p=0)}, P + "top_p: is 0; must be above 0 to 1"),
    ("top_k below -1", {"spec": spec(top_k=-2)}, P + "top_k: is -2; must be at least -1"),
    ("min_p above 1", {"spec": spec(min_p=1.5)}, P + "min_p: is 1.5; must be from 0 to 1"),
    ("presence_penalty 3", {"spec": spec(presence_penalty=3)}, P + "presence_penalty: is 3; must be from -2 to 2"),
    ("repetition_penalty 0", {"spec": spec(repetition_penalty=0)}, P + "repetition_penalty: is 0; must be above 0, and finite"),
    ("n 0", {"spec": spec(n=0)}, P + "n: is 0; must be at least 1 and at most 16"),
    ("n 17", {"spec": spec(n=17)}, P + "n: is 17; must be at least 1 and at most 16"),
    ("n 2 greedy", {"spec": spec(n=2, temperature=0)}, P + "n: is 2; must be 1 when temperature is 0"),
    ("min above max", {"spec": spec(min_tokens=30)}, P + "min_tokens: is 30, more than max_tokens, which is 20"),
    ("empty stop string", {"spec": spec(stop=["a", ""])}, P + "stop[1]: has 0 characters; from 1 to 1024"),
    ("long stop string", {"spec": spec(stop=["a" * 1025])}, P + "stop[0]: has 1025 characters; from 1 to 1024"),
    ("too many stop strings", {"spec": spec(stop=["a"] * 65)}, P + "stop: has 65 strings; at most 64"),
    ("stop token not in vocabulary", {"spec": spec(stop_token_ids=[5000])}, P + "stop_token_ids[0]: 5000 is not in the vocabulary"),
    ("logit_bias NaN", {"spec": spec(logit_bias={5: math.nan})}, P + "logit_bias[5]: is nan; must be finite"),
    ("logprobs -2", {"spec": spec(logprobs=-2)}, P + "logprobs: is -2; must be at least -1"),
    ("malformed JSON schema", {"spec": spec(json_schema='{"type": ')}, P + "json_schema: is not valid JSON at line 1 column 10"),
    ("JSON schema that is no object", {"spec": spec(json_schema="[]")}, P + "json_schema: must be a JSON object"),
    ("empty regex", {"spec": spec(regex="")}, P + "regex: is empty"),
    ("empty choice", {"spec": spec(choice=g.Choices())}, P + "choice.texts: needs at least one text"),
    ("json_object false", {"spec": spec(json_object=False)}, P + "json_object: must be true or unset"),
    ("white space without a structure", {"spec": spec(disable_any_whitespace=True)}, P + "disable_any_whitespace: is only allowed together with a structured_output option"),
    ("negative queue_timeout", {"spec": spec(), "queue_timeout": seconds(-1)}, "queue_timeout: is -1 s; must be from 0.001 to 86400 s"),
    ("time_limit 0", {"spec": spec(), "time_limit": seconds(0)}, "time_limit: is 0 s; must be from 0.001 to 86400 s"),
    ("unknown policy", {"spec": spec(), "on_disconnect": 9}, "on_disconnect: 9 is not a DisconnectPolicy"),
    ("long idempotency key", {"spec": spec(), "idempotency_key": "k" * 257}, "idempotency_key: has 257 characters; at most 256"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
async def test_a_wrong_request_is_refused_with_the_field_and_the_limit(
    served: Served, client: Redis, fields: dict[str, Any], message: str
) -> None:
    calls: tuple[Any, ...] = (
        served.stub.Generate(s.GenerateRequest(**fields)),
        read(served.stub.GenerateStream(s.GenerateStreamRequest(**fields))),
        served.stub.SubmitGeneration(s.SubmitGenerationRequest(**fields)),
    )
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = caught.value
        assert (error.code(), reason(error)) == (INVALID, "INVALID_REQUEST")
        assert message in (error.details() or "")
        bad = error_details_pb2.BadRequest()
        status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
        assert any(detail.Unpack(bad) for detail in status.details)
        field = message.partition(":")[0]
        if "." in field or " " not in field:
            assert field in [violation.field for violation in bad.field_violations]
    assert await queued(client, 0)


async def failure(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), reason(caught.value), caught.value.details() or ""


async def test_all_wrong_fields_are_named_at_once(served: Served) -> None:
    wrong = g.GenerationSpec(sampling_params=g.SamplingParams(temperature=9, n=0, top_p=2))
    _, _, text = await failure(served.stub.Generate(s.GenerateRequest(spec=wrong)))
    assert all(field in text for field in ("spec.prompt", "temperature", "top_p", "n: is 0"))


async def test_thousands_of_wrong_fields_are_one_answer_of_bounded_size(served: Served) -> None:
    messages = [g.ChatMessage(role="x" * 100, content="y") for _ in range(5000)]
    _, name, text = await failure(
        served.stub.Generate(s.GenerateRequest(spec=g.GenerationSpec(chat=g.Chat(messages=messages))))
    )
    assert name == "INVALID_REQUEST"
    assert text.count("is unknown") == 16


async def test_what_only_the_engine_can_judge_fails_the_generation(served: Served) -> None:
    too_long = g.GenerationSpec(text="word " * 110_000)
    code, name, text = await failure(served.stub.Generate(s.GenerateRequest(spec=too_long)))
    assert (code, name) == (INVALID, "INVALID_REQUEST")
    assert text == "spec.text: 137501 prompt tokens and 1 to generate are more than the context of 131072"
    submitted = await served.stub.SubmitGeneration(s.SubmitGenerationRequest(spec=too_long))

    async def failed() -> bool:
        return await state_of(served, submitted.generation_id) == "FAILED"

    await eventually(failed, "the generation has failed")


async def test_a_submitted_generation_needs_no_other_policy(served: Served) -> None:
    request = s.SubmitGenerationRequest(spec=spec(), on_disconnect=g.DISCONNECT_POLICY_CANCEL)
    code, _, text = await failure(served.stub.SubmitGeneration(request))
    assert (code, text) == (INVALID, "on_disconnect: must be unset or DETACH here, since a submitted generation has no reader")


async def test_an_unknown_model_is_not_found(served: Served) -> None:
    wanted = spec()
    wanted.model = "nobody"
    code, name, text = await failure(served.stub.Generate(s.GenerateRequest(spec=wanted)))
    assert (code, name) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert text == "spec.model: no worker has served 'nobody'; known: simulated-test"


async def test_bytes_that_are_not_protobuf_are_refused_without_python_text(served: Served) -> None:
    channel = served.stack.channel(served.gateway)
    call: Any = channel.unary_unary("/tokenrelay.v1.GenerationService/Generate")
    for garbage in (b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\x12\xff", bytes(range(256))):
        code, name, text = await failure(call(garbage))
        assert (code, name) == (INVALID, "INVALID_REQUEST")
        assert text == "the request is not a valid protobuf message of its type"


async def test_a_message_over_the_limit_is_refused_with_the_limit(served: Served) -> None:
    for size in (5_000_000, 20_000_000):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.Generate(s.GenerateRequest(spec=g.GenerationSpec(text="x" * size)))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(size)[:2] in (caught.value.details() or "")
        assert "16777216" in (caught.value.details() or "") or "4194304" in (caught.value.details() or "")


@pytest.mark.parametrize("name", ["", "x", "0-" + "0" * 32, "0-" + "f" * 31 + "\N{DIGIT ONE}" * 2, "9-" + "0" * 32])
async def test_unknown_and_malformed_ids_are_not_found_alike(served: Served, name: str) -> None:
    calls: list[Any] = [
        read(served.stub.AttachGeneration(s.AttachGenerationRequest(generation_id=name))),
        served.stub.GetGeneration(s.GetGenerationRequest(generation_id=name)),
        served.stub.CancelGeneration(s.CancelGenerationRequest(generation_id=name)),
    ]
    for call in calls:
        assert await failure(call) == (
            grpc.StatusCode.NOT_FOUND,
            "GENERATION_NOT_FOUND",
            f"generation_id: there is no generation {name!r}, or no longer",
        )


async def test_attach_outside_of_the_log_is_out_of_range(served: Served) -> None:
    whole = await served.stub.Generate(s.GenerateRequest(spec=spec()))
    name = whole.generation.generation_id
    for after, text in ((-1, "is -1; must be at least 0"), (21, "is 21; the log goes from 0 to 20")):
        request = s.AttachGenerationRequest(generation_id=name, after_sequence=after)
        assert await failure(read(served.stub.AttachGeneration(request))) == (
            grpc.StatusCode.OUT_OF_RANGE,
            "SEQUENCE_OUT_OF_RANGE",
            f"after_sequence: {text}",
        )


async def test_an_expired_generation_is_like_one_that_never_was(stack: Stack) -> None:
    engine = await stack.add_engine()
    await stack.add_worker(engine, retention_seconds=0.2)
    gateway = await stack.add_gateway(retention_seconds=0.2)
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    name = (await stub.Generate(s.GenerateRequest(spec=spec()))).generation.generation_id

    async def gone() -> bool:
        try:
            await stub.GetGeneration(s.GetGenerationRequest(generation_id=name))
        except grpc.aio.AioRpcError as error:
            assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND")
            return True
        return False

    await eventually(gone, "its retention is over")


async def first(call: Any) -> g.GenerationEvent:
    async for response in call:
        event: g.GenerationEvent = response.event
        return event
    raise AssertionError("the stream had no event")


async def test_a_full_queue_refuses_and_says_when_to_retry(stack: Stack) -> None:
    engine = await stack.add_engine(simulated_slots=1)
    await stack.add_worker(engine, prefetch=0)
    gateway = await stack.add_gateway(queue_generations=2)
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    running = stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)))
    await started(running)
    waiting = [stub.GenerateStream(s.GenerateStreamRequest(spec=spec("waits"))) for _ in range(2)]
    for call in waiting:
        await first(call)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(stub.GenerateStream(s.GenerateStreamRequest(spec=spec("too many"))))
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert "2 of 2 generations" in (caught.value.details() or "")
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.seconds == 1
    running.cancel()
    for call in waiting:
        events = [response.event async for response in call]
        assert events[-1].HasField("finished"), "what was accepted is not lost"


async def test_a_queue_timeout_and_a_deadline_hold_in_the_queue(stack: Stack, client: Redis) -> None:
    engine = await stack.add_engine(simulated_slots=1)
    await stack.add_worker(engine, prefetch=0)
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    running = stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)))
    await started(running)
    request = s.GenerateStreamRequest(spec=spec("waits"), queue_timeout=duration_pb2.Duration(nanos=200_000_000))
    code, name, text = await failure(read(stub.GenerateStream(request)))
    assert (code, name) == (grpc.StatusCode.DEADLINE_EXCEEDED, "GENERATION_EXPIRED")
    assert text == "queue_timeout passed before a worker took the generation"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(stub.GenerateStream(s.GenerateStreamRequest(spec=spec("waits too")), timeout=0.2))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: queued(client, 0), "the expired ones have left the queue")
    running.cancel()
