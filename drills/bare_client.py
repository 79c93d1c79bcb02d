"""A stream read by generated stubs alone, as a user of another language would: call, and when it breaks, attach."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from tokenrelay.client.failures import to_error
from tokenrelay.errors import DataLossError, UnavailableError
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import generation_service_pb2_grpc

PAUSE = 0.1  # seconds between a broken call and the next
KEEPALIVE = (("grpc.keepalive_time_ms", 2_000), ("grpc.keepalive_timeout_ms", 2_000), ("grpc.enable_retries", 0))


class BareStream:
    """One generation's events, over as many calls as it takes.

    Attributes:
        generation_id: empty until it is accepted.
        sequence: the last one seen.
        hang_up_after: a sequence after which the call is cut and another gateway is asked.
        leave_after: a sequence after which nothing is read any more.
        is_over: whether the end was seen.
    """

    def __init__(
        self,
        targets: Sequence[str],
        prompt: str,
        sampling: dict[str, Any],
        key: str,
        policy: g.DisconnectPolicy.ValueType = g.DISCONNECT_POLICY_CANCEL_AFTER_GRACE,
    ) -> None:
        self._targets = itertools.cycle(targets)
        self._request = s.GenerateStreamRequest(
            spec=g.GenerationSpec(text=prompt, sampling_params=g.SamplingParams(**sampling)),
            idempotency_key=key,
            on_disconnect=policy,
        )
        self._channel: grpc.aio.Channel | None = None
        self.generation_id = ""
        self.sequence = 0
        self.hang_up_after: int | None = None
        self.leave_after: int | None = None
        self.is_over = False

    async def events(self) -> AsyncIterator[g.GenerationEvent]:
        """Yields what comes that was not there before.

        Raises:
            TokenrelayError: a call failed with something that no other gateway would mend.
        """
        while not self.is_over:
            target = next(self._targets)
            try:
                async for event in self._call(target):
                    kind = event.WhichOneof("event")
                    if kind == "accepted":
                        if self.generation_id:
                            assert self.generation_id == event.accepted.generation_id
                            continue
                        self.generation_id = event.accepted.generation_id
                    elif kind == "delta" and event.sequence - len(event.delta.token_ids) < self.sequence:
                        # A stream begins with the entry that holds the place it is joined at. Where that was an entry's end
                        # before, the log has lost what came before it, and has grown again.
                        raise DataLossError("the stream goes on with what was read already")
                    self.sequence = event.sequence
                    self.is_over = kind == "finished"
                    yield event
                    if self.leave_after is not None and self.sequence >= self.leave_after:
                        return
                    if self.hang_up_after is not None and self.sequence >= self.hang_up_after:
                        self.hang_up_after = None
                        break
            except grpc.aio.AioRpcError as error:
                translated = to_error(error, target, error.initial_metadata(), error.trailing_metadata())
                if not isinstance(translated, UnavailableError):
                    raise translated from error
                await asyncio.sleep(PAUSE)
            finally:
                await self.close()

    async def _call(self, target: str) -> AsyncIterator[g.GenerationEvent]:
        self._channel = grpc.aio.insecure_channel(target, options=KEEPALIVE)
        stub: Any = generation_service_pb2_grpc.GenerationServiceStub(self._channel)
        if self.generation_id:
            call = stub.AttachGeneration(
                s.AttachGenerationRequest(generation_id=self.generation_id, after_sequence=self.sequence)
            )
        else:
            call = stub.GenerateStream(self._request)
        async for response in call:
            yield response.event

    async def close(self) -> None:
        """Cuts the connection."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()
