"""Calls that are wrong inside, made a batch at a time on a connection that others of the same caller share."""

import asyncio

from drills.attacks.good import CANCELS, SUBMIT
from drills.attacks.spoiled import KINDS, Call, Spoiled
from drills.attacks.tally import Tally
from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import message, request_fields
from tokenrelay.v1 import generation_service_pb2 as s

BATCH = 16  # calls at a time of each caller
LARGE_BATCH = 4  # the same for calls of up to some 100 KB
PATIENCE = 40.0  # seconds for an answer
RUNS_AFTER = 2.0  # seconds after which a fuzzed request that was accepted is left
BREAKS_HTTP2 = ("wrong headers",)


async def make(connection: RawConnection, kind: str, spoiled: Spoiled, tally: Tally) -> int:
    """Makes a batch of calls of a kind; returns how many."""
    batch = LARGE_BATCH if kind == "wrong fields" else BATCH
    may_break = kind in BREAKS_HTTP2
    await asyncio.gather(*(make_one(connection, kind, KINDS[kind](spoiled), tally, may_break=may_break) for _ in range(batch)))
    return batch


async def make_one(connection: RawConnection, kind: str, wanted: Call, tally: Tally, *, may_break: bool = False) -> None:
    """Makes a call; what turns out to be a good request is let go after a while."""
    headers, body = wanted
    call = asyncio.ensure_future(connection.call(headers, body))
    stream = connection.newest
    try:
        done, _ = await asyncio.wait({call}, timeout=RUNS_AFTER)
        if not done and connection.streams.is_accepted(stream):
            connection.reset(stream)
            tally.came(kind, "accepted")
            return
        answer = await asyncio.wait_for(call, PATIENCE)
    except TimeoutError:
        what = f"no answer within {PATIENCE:.0f} s to {dict(headers)[b':path'][:60]!r} {body[:60]!r}"
        tally.is_bad(kind, "no answer", what)
        return
    finally:
        call.cancel()
    tally.answered(kind, answer, may_break=may_break)
    if (b":path", SUBMIT) in headers and answer.status == 0:
        # Nobody reads it, so it would run to its end, which may be far away.
        name = s.SubmitGenerationResponse.FromString(answer.messages()[0]).generation_id
        cancel = s.CancelGenerationRequest(generation_id=name).SerializeToString()
        await asyncio.wait_for(connection.call(request_fields(CANCELS), message(cancel)), PATIENCE)
