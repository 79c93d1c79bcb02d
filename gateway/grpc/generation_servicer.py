"""The public contract: every call of GenerationService, each as the steps of its story."""

from typing import Any

from gateway.core import responses
from gateway.core.admission import Admission
from gateway.core.readers import Reader, Readers
from tokenrelay import calls, telemetry, timings
from tokenrelay.errors import DrainingError, OutOfRangeError
from tokenrelay.store.log import TokenLog
from tokenrelay.store.protocols import GatewayStore
from tokenrelay.store.records import Record
from tokenrelay.store.values import LogItem
from tokenrelay.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

GENERATION_ID, TRACE_ID = "tokenrelay-generation-id", "tokenrelay-trace-id"  # initial metadata
TIMINGS, SERVER_TIMING = "tokenrelay-timings-bin", "server-timing"  # trailing metadata

CANCEL, DETACH = generation_pb2.DISCONNECT_POLICY_CANCEL, generation_pb2.DISCONNECT_POLICY_DETACH
Context = Any  # grpc.aio.ServicerContext, whose type parameters say nothing here


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Serves generations. What streams write is bytes already: deltas are forwarded as the engine service made them."""

    def __init__(
        self, *, admission: Admission, readers: Readers, store: GatewayStore, token_log: TokenLog, patience: float
    ) -> None:
        self._admission = admission
        self._readers = readers
        self._store = store
        self._log = token_log
        self._patience = patience  # seconds that a new call waits for Redis
        self._draining = False

    def drain(self) -> None:
        """Refuses new work from now on; what is open goes on."""
        self._draining = True

    async def Generate(
        self, request: generation_service_pb2.GenerateRequest, context: Context
    ) -> generation_service_pb2.GenerateResponse:
        """Admits, follows to the end, and answers with all of it."""
        self._refuse_while_draining()
        submission = await self._admission.admit(request, context.time_remaining(), CANCEL)
        async with self._readers.submitted(submission, end_only=True) as reader:
            await _send_metadata(context, reader)
            items = await reader.rest()
            record = await self._store.read_record(reader.generation_id)
            times = self._readers.ended(items[-1])
            _set_trailers(context, times)
            return generation_service_pb2.GenerateResponse(generation=responses.generation(record, items, times))

    async def GenerateStream(  # type: ignore[override]  # it writes by itself
        self, request: generation_service_pb2.GenerateStreamRequest, context: Context
    ) -> None:
        """Admits, and relays what comes."""
        self._refuse_while_draining()
        submission = await self._admission.admit(request, context.time_remaining(), CANCEL)
        async with self._readers.submitted(submission) as reader:
            await self._relay(reader, context)

    async def SubmitGeneration(
        self, request: generation_service_pb2.SubmitGenerationRequest, context: Context
    ) -> generation_service_pb2.SubmitGenerationResponse:
        """Admits, and answers as soon as it is stored."""
        self._refuse_while_draining()
        submission = await self._admission.admit(request, None, DETACH)
        generation_id = await self._readers.submit_detached(submission)
        return generation_service_pb2.SubmitGenerationResponse(generation_id=generation_id)

    async def AttachGeneration(  # type: ignore[override]  # it writes by itself
        self, request: generation_service_pb2.AttachGenerationRequest, context: Context
    ) -> None:
        """Joins what is there, and relays what comes."""
        self._refuse_while_draining()
        if request.after_sequence < 0:
            raise OutOfRangeError.of_field("after_sequence", f"is {request.after_sequence}; must be at least 0")
        async with self._readers.joined(request.generation_id, request.after_sequence) as reader:
            await self._relay(reader, context)

    async def GetGeneration(
        self, request: generation_service_pb2.GetGenerationRequest, context: Context
    ) -> generation_service_pb2.GetGenerationResponse:
        """Answers with what the log holds now."""
        record = await self._store.read_record(request.generation_id, self._patience)
        items = await self._log.read_whole(request.generation_id)
        whole = responses.generation(record, items, _stored_timings(record, items))
        return generation_service_pb2.GetGenerationResponse(generation=whole)

    async def CancelGeneration(
        self, request: generation_service_pb2.CancelGenerationRequest, context: Context
    ) -> generation_service_pb2.CancelGenerationResponse:
        """Ends what waits; has the owner end what runs."""
        state = await self._store.cancel(request.generation_id, self._patience)
        return generation_service_pb2.CancelGenerationResponse(state=state)

    async def _relay(self, reader: Reader, context: Context) -> None:
        """Writes a reader's events, the accepted one first and the finished one last."""
        await _send_metadata(context, reader)
        await context.write(responses.accepted(reader.generation_id, reader.after))
        while not reader.at_end:
            items = await reader.next_items()
            for response in responses.deltas(items):
                await context.write(response)
        times = self._readers.ended(items[-1])
        _set_trailers(context, times)
        await context.write(_finished(items[-1], times))

    def _refuse_while_draining(self) -> None:
        if self._draining:
            raise DrainingError("this gateway is stopping; call another one", retry_after=0.1)


def _finished(item: LogItem, times: generation_pb2.Timings) -> bytes:
    assert item.terminal is not None
    attempts = len(item.terminal.timeline.lost_attempts) + 1
    return responses.finished(item.sequence, item.terminal, attempts, item.terminal.trace_id, times)


def _stored_timings(record: Record, items: list[LogItem]) -> generation_pb2.Timings | None:
    if not items or items[-1].terminal is None:
        return None
    # What ended before a worker had it has a timeline in its record alone.
    timeline = items[-1].terminal.timeline if items[-1].terminal.HasField("timeline") else record.timeline()
    return timings.timings(timeline, items[-1].finished_us)


async def _send_metadata(context: Context, reader: Reader) -> None:
    metadata = [(GENERATION_ID, reader.generation_id)]
    trace_id = telemetry.trace_id(calls.current().context)
    if trace_id:
        metadata.append((TRACE_ID, trace_id))
    await context.send_initial_metadata(tuple(metadata))


def _set_trailers(context: Context, times: generation_pb2.Timings) -> None:
    context.set_trailing_metadata(((TIMINGS, times.SerializeToString()), (SERVER_TIMING, responses.server_timing(times))))
