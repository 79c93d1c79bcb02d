"""Where a generation's time went: instants on Redis' clock become hops that follow one another and add up."""

from collections.abc import Iterator

from google.protobuf import duration_pb2

from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import generation_pb2

HOP_NAMES = {number: name.removeprefix("HOP_KIND_").lower() for name, number in generation_pb2.HopKind.items()}


def hop_name(kind: generation_pb2.HopKind.ValueType) -> str:
    """Returns a hop's name for people: lower case with underscores."""
    return HOP_NAMES[kind]


def timings(timeline: store_pb2.Timeline, finished_us: int, relayed_us: int | None = None) -> generation_pb2.Timings:
    """Returns the hops between a timeline's instants.

    Args:
        timeline: when what happened, up to the last token.
        finished_us: when the terminal record was written.
        relayed_us: when the end left the gateway for a reader; None for a detached generation.
    """
    result = generation_pb2.Timings()
    position = start = timeline.received_us or timeline.submitted_us
    last = finished_us if relayed_us is None else relayed_us
    for kind, attempt, end in _ends(timeline, finished_us, relayed_us):
        # Instants of different processes may be a little out of order; no hop is negative or goes past the end.
        duration_us = max(0, min(end, last) - position)
        position += duration_us
        result.hops.append(generation_pb2.Hop(kind=kind, attempt=attempt, duration=_duration(duration_us)))
    result.total.CopyFrom(_duration(position - start))
    if timeline.first_logged_us:
        result.time_to_first_token.CopyFrom(_duration(max(0, timeline.first_logged_us - start)))
    return result


def _ends(
    timeline: store_pb2.Timeline, finished_us: int, relayed_us: int | None
) -> Iterator[tuple[generation_pb2.HopKind.ValueType, int, int]]:
    """Yields each hop's kind, attempt and end. What a generation did not come to is left out."""
    yield generation_pb2.HOP_KIND_RECEIVE, 0, timeline.enqueue_us or timeline.submitted_us
    yield generation_pb2.HOP_KIND_ENQUEUE, 0, timeline.submitted_us
    claims = [*(lost.claimed_us for lost in timeline.lost_attempts), timeline.claimed_us]
    yield generation_pb2.HOP_KIND_QUEUE_WAIT, 0, claims[0] or finished_us
    for number, lost in enumerate(timeline.lost_attempts, start=1):
        yield generation_pb2.HOP_KIND_LOST_ATTEMPT, number, lost.appended_us
        yield generation_pb2.HOP_KIND_TAKEOVER, number + 1, claims[number]
    attempt = len(claims)
    steps = (
        (generation_pb2.HOP_KIND_CLAIM, timeline.dispatched_us),
        (generation_pb2.HOP_KIND_DISPATCH, timeline.queued_us),
        (generation_pb2.HOP_KIND_ENGINE_QUEUE, timeline.scheduled_us),
        (generation_pb2.HOP_KIND_PREFILL, timeline.first_token_us),
        (generation_pb2.HOP_KIND_DECODE, timeline.last_token_us),
    )
    for kind, end in steps:
        if end:
            yield kind, attempt, end
    if claims[0]:
        yield generation_pb2.HOP_KIND_APPEND, attempt, finished_us
    if relayed_us is not None:
        yield generation_pb2.HOP_KIND_RELAY, 0, relayed_us


def _duration(microseconds: int) -> duration_pb2.Duration:
    seconds, rest = divmod(microseconds, 1_000_000)
    return duration_pb2.Duration(seconds=seconds, nanos=rest * 1000)


def milliseconds(duration: duration_pb2.Duration) -> float:
    """Returns a duration in milliseconds."""
    return (duration.seconds * 1_000_000 + duration.nanos // 1000) / 1000
