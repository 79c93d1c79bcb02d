"""Decides before anything waits whether a request becomes a generation, and makes its job."""

import hashlib
import time
from dataclasses import dataclass

from google.protobuf import duration_pb2

from gateway.core import validation
from gateway.core.bounds import Limits
from gateway.core.directory import ModelDirectory
from gateway.core.validation import GenerationRequest
from tokenrelay import telemetry
from tokenrelay.calls import Call
from tokenrelay.clock import PeerClock
from tokenrelay.errors import GenerationExpiredError, InvalidRequestError, StoreUnavailableError
from tokenrelay.identity.callers import Caller
from tokenrelay.identity.quotas import Allowance
from tokenrelay.store import keys
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Submission
from tokenrelay.v1 import generation_pb2

CHARACTERS_PER_TOKEN = 4  # of English text, with the vocabularies of today


@dataclass(frozen=True)
class Admission:
    """The rules by which this gateway admits."""

    directory: ModelDirectory
    clock: PeerClock
    limits: Limits
    shards: int
    grace_ms: int

    async def admit(
        self,
        request: GenerationRequest,
        call: Call,
        deadline_seconds: float | None,
        default: generation_pb2.DisconnectPolicy.ValueType,
    ) -> Submission:
        """Returns the submission of a request.

        Args:
            request: as the client sent it.
            call: the call that brought it.
            deadline_seconds: what is left of the call's deadline; None if it has none or does not bind the generation.
            default: the disconnect policy if the request names none.

        Raises:
            TokenrelayError: the request is refused.
        """
        if not request.HasField("spec"):
            raise InvalidRequestError.of_field("spec", "is required")
        if not self.clock.is_known():
            raise StoreUnavailableError("Redis has not been reached yet", retry_after=1.0)
        detached = default == generation_pb2.DISCONNECT_POLICY_DETACH
        served = await self.directory.resolve(request.spec.model, call.caller, may_wait=detached)
        validation.check(request, served.model, self.limits)
        if deadline_seconds is not None and deadline_seconds <= 0:
            raise GenerationExpiredError("the call's deadline has passed")
        return Submission(
            generation_id=keys.new_generation_id(self._shard(request.idempotency_key, call.caller.tenant)),
            job=self._job(request, call, served.model.name),
            spec=request.spec.SerializeToString(),
            request_hash=request_hash(request),
            idempotency_key=request.idempotency_key,
            queue_timeout_ms=_milliseconds(request.queue_timeout) if request.HasField("queue_timeout") else None,
            time_limit_ms=_time_limit_ms(request, deadline_seconds),
            policy=request.on_disconnect or default,
            grace_ms=self.grace_ms,
            allowance=_allowance(request.spec, call.caller),
        )

    def _job(self, request: GenerationRequest, call: Call, model: str) -> store_pb2.Job:
        return store_pb2.Job(
            model=model,
            n=request.spec.sampling_params.n or 1,
            received_at_us=self.clock.to_peer(call.received_ns) // 1000,
            enqueue_at_us=self.clock.to_peer(time.monotonic_ns()) // 1000,
            trace_id=telemetry.trace_id(call.context),
            tenant=call.caller.tenant,
            key_id=call.caller.key_id,
        )

    def _shard(self, idempotency_key: str, tenant: str) -> int:
        if tenant:
            return keys.shard_of_tenant(tenant, self.shards)
        if idempotency_key:
            return keys.shard_of_idempotency_key(keys.idempotency_hash(idempotency_key, tenant), self.shards)
        return time.monotonic_ns() % self.shards


def _allowance(spec: generation_pb2.GenerationSpec, caller: Caller) -> Allowance | None:
    """Returns by what a request's tenant is judged; None without a tenant."""
    if not caller.tenant:
        return None
    params = spec.sampling_params
    bounded = params.HasField("max_tokens") and params.max_tokens > 0
    return Allowance(
        tenant=caller.tenant_quota,
        key=caller.key_quota,
        prompt_tokens=_prompt_tokens(spec),
        most_tokens=params.max_tokens * (params.n or 1) if bounded else None,
    )


def _prompt_tokens(spec: generation_pb2.GenerationSpec) -> int:
    """Returns how many tokens a prompt has: exactly if it came as tokens, else as its characters let expect."""
    if spec.WhichOneof("prompt") == "token_ids":
        return len(spec.token_ids.ids)
    characters = len(spec.text) + sum(len(message.content) for message in spec.chat.messages)
    return 1 + characters // CHARACTERS_PER_TOKEN


def request_hash(request: GenerationRequest) -> str:
    """Returns what is equal for equal requests: SHA-256 over the deterministic bytes of all but the idempotency key."""
    bare = type(request)()
    bare.CopyFrom(request)  # type: ignore[arg-type]  # the same type, which mypy cannot see
    bare.ClearField("idempotency_key")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _milliseconds(duration: duration_pb2.Duration) -> int:
    return max(1, duration.ToMilliseconds())


def _time_limit_ms(request: GenerationRequest, deadline_seconds: float | None) -> int | None:
    """Returns the tighter of the request's limit and the call's deadline; None for none."""
    limits = [_milliseconds(request.time_limit)] if request.HasField("time_limit") else []
    if deadline_seconds is not None:
        limits.append(max(1, round(deadline_seconds * 1000)))
    return min(limits, default=None)
