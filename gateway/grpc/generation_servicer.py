"""The public contract: every call of GenerationService, each as the steps of its story."""

import math
from typing import Any

import structlog

from gateway.core import responses
from gateway.core.admission import Admission
from gateway.core.readers import Reader, Readers
from gateway.core.reports import Reports
from tokenrelay import calls, telemetry, timings
from tokenrelay.calls import Call
from tokenrelay.errors import DataLossError, DrainingError, OutOfRangeError
from tokenrelay.identity.quotas import TokensLeft
from tokenrelay.store.log import Extent, TokenLog
from tokenrelay.store.protocols import GatewayStore
from tokenrelay.store.records import Record
from tokenrelay.store.values import LogItem
from tokenrelay.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

log = structlog.get_logger(__name__)

GENERATION_ID, TRACE_ID = "tokenrelay-generation-id", "tokenrelay-trace-id"  # initial metadata
TIMINGS, SERVER_TIMING = "tokenrelay-timings-bin", "server-timing"  # trailing metadata

TRAILER_BYTES = 2_500  # the largest of each; what is binary takes a third more on its way

CANCEL, DETACH = generation_pb2.DISCONNECT_POLICY_CANCEL, generation_pb2.DISCONNECT_POLICY_DETACH
Context = Any  # grpc.aio.ServicerContext, whose type parameters say nothing here


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Serves generations. What streams write is bytes already: deltas are forwarded as the engine service made them."""

    def __init__(
        self,
        *,
        admission: Admission,
        readers: Readers,
        reports: Reports,
        store: GatewayStore,
        token_log: TokenLog,
        patience: float,
    ) -> None:
        self._admission = admission
        self._readers = readers
        self._reports = reports
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
        call = calls.current()
        submission = await self._admission.admit(request, call, context.time_remaining(), CANCEL)
        async with self._readers.submitted(submission, call, end_only=True) as reader:
            await _send_metadata(context, reader, call)
            items = await reader.rest()
            record = await self._store.read_record(reader.generation_id, tenant=call.caller.tenant)
            times = self._reports.ended(items[-1], call)
            _set_trailers(context, times, reader.tokens_left)
            return generation_service_pb2.GenerateResponse(generation=responses.generation(record, items, times))

    async def GenerateStream(  # type: ignore[override]  # it writes by itself
        self, request: generation_service_pb2.GenerateStreamRequest, context: Context
    ) -> None:
        """Admits, and relays what comes."""
        self._refuse_while_draining()
        call = calls.current()
        submission = await self._admission.admit(request, call, context.time_remaining(), CANCEL)
        async with self._readers.submitted(submission, call) as reader:
            await self._relay(reader, context, call)

    async def SubmitGeneration(
        self, request: generation_service_pb2.SubmitGenerationRequest, context: Context
    ) -> generation_service_pb2.SubmitGenerationResponse:
        """Admits, and answers as soon as it is stored."""
        self._refuse_while_draining()
        call = calls.current()
        submission = await self._admission.admit(request, call, None, DETACH)
        accepted = await self._readers.submit_detached(submission, call)
        context.set_trailing_metadata(_rate_limit(accepted.tokens_left))
        return generation_service_pb2.SubmitGenerationResponse(generation_id=accepted.generation_id)

    async def AttachGeneration(  # type: ignore[override]  # it writes by itself
        self, request: generation_service_pb2.AttachGenerationRequest, context: Context
    ) -> None:
        """Joins what is there, and relays what comes."""
        self._refuse_while_draining()
        if request.after_sequence < 0:
            raise OutOfRangeError.of_field("after_sequence", f"is {request.after_sequence}; must be at least 0")
        call = calls.current()
        async with self._readers.joined(request.generation_id, request.after_sequence, call) as reader:
            await self._relay(reader, context, call)

    async def GetGeneration(
        self, request: generation_service_pb2.GetGenerationRequest, context: Context
    ) -> generation_service_pb2.GetGenerationResponse:
        """Answers with what the log holds now."""
        tenant = calls.current().caller.tenant
        record = await self._store.read_record(request.generation_id, tenant=tenant, patience=self._patience)
        items = await self._read_log(record, tenant)
        whole = responses.generation(record, items, _stored_timings(record, items))
        return generation_service_pb2.GetGenerationResponse(generation=whole)

    async def _read_log(self, record: Record, tenant: str) -> list[LogItem]:
        """Raises DataLossError if the log does not hold what the record says."""
        extent = Extent(record.last, record.state > generation_pb2.GENERATION_STATE_RUNNING)
        try:
            return await self._log.read_whole(record.generation_id, extent)
        except DataLossError:
            # Record and log expire together, so that the log may have gone since the record was read.
            await self._store.read_record(record.generation_id, tenant=tenant, patience=self._patience)
            raise

    async def CancelGeneration(
        self, request: generation_service_pb2.CancelGenerationRequest, context: Context
    ) -> generation_service_pb2.CancelGenerationResponse:
        """Ends what waits; has the owner end what runs."""
        tenant = calls.current().caller.tenant
        state = await self._store.cancel(request.generation_id, tenant=tenant, patience=self._patience)
        return generation_service_pb2.CancelGenerationResponse(state=state)

    async def _relay(self, reader: Reader, context: Context, call: Call) -> None:
        """Writes a reader's events, the accepted one first and the finished one last."""
        await _send_metadata(context, reader, call)
        await context.write(responses.accepted(reader.generation_id, reader.after))
        is_first = True
        while not reader.at_end:
            items = await reader.next_items()
            for response in responses.deltas(items):
                await context.write(response)
            if is_first:
                is_first = False
                log.debug("first delta sent", generation_id=reader.generation_id, sequence=items[-1].sequence)
        times = self._reports.ended(items[-1], call)
        _set_trailers(context, times, reader.tokens_left)
        await context.write(_finished(items[-1], times))
        log.debug("finished sent", generation_id=reader.generation_id, sequence=items[-1].sequence)

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


async def _send_metadata(context: Context, reader: Reader, call: Call) -> None:
    metadata = [(GENERATION_ID, reader.generation_id)]
    trace_id = telemetry.trace_id(call.context)
    if trace_id:
        metadata.append((TRACE_ID, trace_id))
    await context.send_initial_metadata(tuple(metadata))


def _set_trailers(context: Context, times: generation_pb2.Timings, left: TokensLeft | None) -> None:
    """Sets the timings twice, for programs and for people, as far as gRPC's 8 KiB of metadata have room for both.

    They grow with every lost attempt; the finished event has all of them in any case.
    """
    trailers: list[tuple[str, str | bytes]] = []
    for name, value in ((TIMINGS, times.SerializeToString()), (SERVER_TIMING, responses.server_timing(times))):
        if len(value) <= TRAILER_BYTES:
            trailers.append((name, value))
    context.set_trailing_metadata((*trailers, *_rate_limit(left)))


def _rate_limit(left: TokensLeft | None) -> tuple[tuple[str, str], ...]:
    """Returns what is left of the tokens a minute, and in how many seconds all of it will be there again.

    Named as HTTP gateways name it (draft-ietf-httpapi-ratelimit-headers, in its first form of three fields).
    """
    if left is None:
        return ()
    seconds = math.ceil((left.limit - left.left) * 60 / left.limit)
    given = (("limit", left.limit), ("remaining", max(0, left.left)), ("reset", seconds))
    return tuple((f"ratelimit-{name}", str(value)) for name, value in given)
