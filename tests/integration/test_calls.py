"""Every call of the public contract, on a real Redis with the simulated engine."""

import asyncio
import hashlib
import struct
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tests.integration.conftest import Served, spec
from tests.support.waiting import eventually
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc


async def read(call: Any) -> list[g.GenerationEvent]:
    return [response.event async for response in call]


def tokens(events: list[g.GenerationEvent]) -> list[int]:
    return [token for event in events for token in event.delta.token_ids]


def text(events: list[g.GenerationEvent]) -> str:
    return "".join(event.delta.text for event in events)


def reason(error: grpc.aio.AioRpcError) -> str:
    """ErrorInfo.reason of a failed call."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status = status_pb2.Status.FromString(details)
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.domain == "tokenrelay"
    return info.reason


async def test_a_good_stream_is_accepted_deltas_and_exactly_one_finished(served: Served) -> None:
    wanted = spec()
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await read(call)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "finished"
    assert set(kinds[1:-1]) == {"delta"}

    expected = list(expected_tokens(wanted))
    assert tokens(events) == expected
    assert text(events) == text_of(expected)
    sequences = [event.sequence for event in events]
    assert sequences == sorted(sequences)
    assert sequences[-1] == len(expected) == 20

    end = events[-1].finished
    assert [choice.finish_reason for choice in end.choices] == [g.FINISH_REASON_LENGTH]
    assert (end.usage.completion_tokens, end.attempts, end.exact) == (20, 1, True)
    assert end.digest == hashlib.sha256(struct.pack("<21I", 20, *expected)).digest()


async def test_hops_follow_one_another_and_add_up_to_the_total(served: Served) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec()))
    end = (await read(call))[-1].finished
    kinds = [hop.kind for hop in end.timings.hops]
    assert kinds == sorted(kinds)
    assert len(kinds) == 10
    total = end.timings.total.ToMicroseconds()
    assert sum(hop.duration.ToMicroseconds() for hop in end.timings.hops) == total
    assert 0 < end.timings.time_to_first_token.ToMicroseconds() < total
    trailers = dict(await call.trailing_metadata())
    assert g.Timings.FromString(trailers["tokenrelay-timings-bin"]) == end.timings
    assert trailers["server-timing"].startswith("receive;dur=")


async def test_generate_returns_the_whole_answer(served: Served) -> None:
    wanted = spec(n=3, seed=1)
    response = await served.stub.Generate(s.GenerateRequest(spec=wanted))
    whole = response.generation
    assert whole.state == g.GENERATION_STATE_FINISHED
    for choice in whole.choices:
        expected = list(expected_tokens(wanted, choice.index))
        assert (choice.token_ids, choice.text) == (expected, text_of(expected))
        assert choice.end.finish_reason == g.FINISH_REASON_LENGTH
    assert len(whole.choices) == 3
    assert whole.sequence == whole.usage.completion_tokens == 60
    assert whole.timings.hops[-1].kind == g.HOP_KIND_RELAY


async def test_choices_of_a_stream_share_one_sequence(served: Served) -> None:
    wanted = spec(n=2, seed=1)
    events = await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted)))
    deltas = [event for event in events if event.HasField("delta")]
    before = 0
    for event in deltas:
        assert event.sequence - before == len(event.delta.token_ids)
        before = event.sequence
    for index in range(2):
        got = [token for event in deltas if event.delta.index == index for token in event.delta.token_ids]
        assert got == list(expected_tokens(wanted, index))


async def test_a_submitted_generation_can_be_attached_and_got(served: Served) -> None:
    wanted = spec()
    submitted = await served.stub.SubmitGeneration(s.SubmitGenerationRequest(spec=wanted))
    events = await read(served.stub.AttachGeneration(s.AttachGenerationRequest(generation_id=submitted.generation_id)))
    assert tokens(events) == list(expected_tokens(wanted))
    got = (await served.stub.GetGeneration(s.GetGenerationRequest(generation_id=submitted.generation_id))).generation
    assert got.state == g.GENERATION_STATE_FINISHED
    assert got.choices[0].text == text(events)
    assert got.digest == events[-1].finished.digest
    assert got.expire_time.ToMicroseconds() > got.finish_time.ToMicroseconds() > got.create_time.ToMicroseconds()
    assert sum(hop.duration.ToMicroseconds() for hop in got.timings.hops) == got.timings.total.ToMicroseconds()


async def test_a_reader_that_comes_after_the_end_adds_no_relay(served: Served) -> None:
    submitted = await served.stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec()))
    attach = s.AttachGenerationRequest(generation_id=submitted.generation_id)
    early, late = [await read(served.stub.AttachGeneration(attach)) for _ in range(2)]
    got = (await served.stub.GetGeneration(s.GetGenerationRequest(generation_id=submitted.generation_id))).generation
    assert early[-1].finished.timings.hops[-1].kind == g.HOP_KIND_RELAY
    assert late[-1].finished.timings == got.timings


async def test_attach_gives_exactly_what_comes_after_every_sequence(served: Served) -> None:
    wanted = spec()
    events = await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted)))
    generation_id = events[0].accepted.generation_id
    expected = list(expected_tokens(wanted))
    for after in range(len(expected) + 1):
        request = s.AttachGenerationRequest(generation_id=generation_id, after_sequence=after)
        tail = await read(served.stub.AttachGeneration(request))
        # An entry of the log is not cut in two: the first is that with the next token, with what stands before that in it.
        begins_after = len(expected) - len(tokens(tail))
        assert tokens(tail) == expected[begins_after:], f"after {after}"
        assert begins_after <= after
        assert all(event.sequence > after for event in tail if event.HasField("delta"))
        assert tail[-1].HasField("finished")


async def test_many_readers_see_the_same(served: Served) -> None:
    wanted = spec(max_tokens=200)
    submitted = await served.stub.SubmitGeneration(s.SubmitGenerationRequest(spec=wanted))
    request = s.AttachGenerationRequest(generation_id=submitted.generation_id)
    readers = await asyncio.gather(*(read(served.stub.AttachGeneration(request)) for _ in range(20)))
    expected = list(expected_tokens(wanted))
    assert all(tokens(events) == expected for events in readers)


async def test_two_hundred_streams_at_once_are_all_right(served: Served) -> None:
    specs = [spec(f"stream {number}", max_tokens=64) for number in range(200)]
    streams = await asyncio.gather(*(read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=one))) for one in specs))
    for one, events in zip(specs, streams, strict=True):
        expected = list(expected_tokens(one))
        assert tokens(events) == expected, one.text
        assert text(events) == text_of(expected), one.text
        assert [event.WhichOneof("event") for event in events].count("finished") == 1, one.text


async def test_stop_strings_and_tokens_end_a_choice(served: Served) -> None:
    wanted = spec(max_tokens=50)
    expected = list(expected_tokens(wanted))
    whole = text_of(expected)
    stop = whole[30:36]
    by_string = spec(max_tokens=50, stop=[stop])
    events = await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=by_string)))
    assert text(events) == whole[: whole.index(stop)]
    assert events[-1].finished.choices[0].stop_string == stop
    by_token = spec(max_tokens=50, stop_token_ids=[expected[7]])
    events = await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=by_token)))
    assert tokens(events) == expected[: expected.index(expected[7]) + 1]
    assert events[-1].finished.choices[0].stop_token_id == expected[7]


async def test_an_idempotency_key_joins_the_same_request_from_its_beginning(served: Served) -> None:
    request = s.GenerateStreamRequest(spec=spec(), idempotency_key="k")
    first, second = await asyncio.gather(*(read(served.stub.GenerateStream(request)) for _ in range(2)))
    assert first[0].accepted.generation_id == second[0].accepted.generation_id
    assert tokens(first) == tokens(second)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec("other"), idempotency_key="k")))
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_IN_USE")


LONG: dict[str, Any] = {"max_tokens": 100_000}


async def started(call: Any) -> str:
    """Reads until the first token; returns the generation's id."""
    generation_id = ""
    async for response in call:
        if response.event.HasField("accepted"):
            generation_id = response.event.accepted.generation_id
        if response.event.HasField("delta"):
            return generation_id
    raise AssertionError("the stream ended before its first token")


async def endless_streams(stub: Any, count: int) -> list[Any]:
    """Opens streams that go on until they are cancelled; returns them once each has a token."""
    calls = [stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000))) for _ in range(count)]
    for call in calls:
        await started(call)
    return calls


async def state_of(served: Served, generation_id: str) -> str:
    response = await served.stub.GetGeneration(s.GetGenerationRequest(generation_id=generation_id))
    return g.GenerationState.Name(response.generation.state).removeprefix("GENERATION_STATE_")


async def test_cancel_ends_a_running_stream_and_frees_its_slot(served: Served) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(**LONG)))
    generation_id = await started(call)
    answer = await served.stub.CancelGeneration(s.CancelGenerationRequest(generation_id=generation_id))
    assert answer.state == g.GENERATION_STATE_RUNNING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.CANCELLED, "GENERATION_CANCELLED")
    engine = served.engine.application._engine
    await eventually(lambda: not engine._running, "the engine has freed the slot")
    answer = await served.stub.CancelGeneration(s.CancelGenerationRequest(generation_id=generation_id))
    assert answer.state == g.GENERATION_STATE_CANCELLED, "a terminal one stays as it is"


async def test_a_frame_that_holds_only_what_was_cancelled_does_no_harm(served: Served) -> None:
    output = engine_service_pb2.Output(key=1_000_000, token_count=1)
    await served.worker.application.work.driver._write(engine_service_pb2.RunSessionResponse(outputs=[output]))
    assert tokens(await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec())))) == list(expected_tokens(spec()))


async def test_a_client_that_leaves_cancels_by_default(served: Served) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(**LONG)))
    generation_id = await started(call)
    call.cancel()

    async def cancelled() -> bool:
        return await state_of(served, generation_id) == "CANCELLED"

    await eventually(cancelled, "the generation is cancelled")


async def test_cancel_after_grace_waits_for_a_reader_to_come_back(served: Served) -> None:
    second = await served.stack.add_gateway(disconnect_grace_seconds=1.0)
    wanted = spec(max_tokens=1500)
    policy = g.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted, on_disconnect=policy))
    first: list[g.GenerationEvent] = []
    async for response in call:
        first.append(response.event)
        if response.event.sequence >= 100:
            break
    call.cancel()
    request = s.AttachGenerationRequest(generation_id=first[0].accepted.generation_id, after_sequence=first[-1].sequence)
    rest = await read(served.stack.stub(second).AttachGeneration(request))
    expected = list(expected_tokens(wanted))
    assert tokens(first) + tokens(rest) == expected
    assert text(first) + text(rest) == text_of(expected)


async def test_cancel_after_grace_cancels_when_nobody_comes_back(served: Served) -> None:
    policy = g.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(**LONG), on_disconnect=policy))
    generation_id = await started(call)
    call.cancel()
    assert await state_of(served, generation_id) == "RUNNING"

    async def cancelled() -> bool:
        return await state_of(served, generation_id) == "CANCELLED"

    await eventually(cancelled, "the grace is over")


async def test_detach_lets_a_stream_run_to_its_end(served: Served) -> None:
    request = s.GenerateStreamRequest(spec=spec(max_tokens=300), on_disconnect=g.DISCONNECT_POLICY_DETACH)
    call = served.stub.GenerateStream(request)
    generation_id = await started(call)
    call.cancel()

    async def finished() -> bool:
        return await state_of(served, generation_id) == "FINISHED"

    await eventually(finished, "it ran to its end")


async def test_a_deadline_ends_a_running_generation(served: Served) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(**LONG)), timeout=0.5)
    generation_id = await started(call)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    async def expired() -> bool:
        return await state_of(served, generation_id) == "EXPIRED"

    await eventually(expired, "the generation has expired")


async def test_a_time_limit_expires_a_submitted_generation(served: Served) -> None:
    request = s.SubmitGenerationRequest(spec=spec(**LONG), time_limit=duration_pb2.Duration(nanos=300_000_000))
    generation_id = (await served.stub.SubmitGeneration(request)).generation_id

    async def expired() -> bool:
        return await state_of(served, generation_id) == "EXPIRED"

    await eventually(expired, "the generation has expired")
    got = (await served.stub.GetGeneration(s.GetGenerationRequest(generation_id=generation_id))).generation
    assert got.sequence > 0, "it had begun"
    assert got.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_models_are_listed_with_limits_and_load(served: Served) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(**LONG)))
    await started(call)
    models: Any = model_service_pb2_grpc.ModelServiceStub(served.stack.channel(served.gateway))

    async def busy() -> bool:
        (model,) = (await models.ListModels(model_service_pb2.ListModelsRequest())).models
        assert (model.name, model.engine, model.workers, model.slots) == ("simulated-test", "simulated", 1, 256)
        return bool(model.running == 1)

    await eventually(busy, "the running one is counted")
    call.cancel()
