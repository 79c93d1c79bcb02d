"""What readers are sent: log items as stream events, and whole generations."""

from collections.abc import Iterator, Sequence

from google.protobuf import timestamp_pb2

from tokenrelay import timings
from tokenrelay.store.records import Record
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import LogItem
from tokenrelay.v1 import generation_pb2
from tokenrelay.wire import varint

# Tags of the wire format: field number * 8 + 2 for bytes, + 0 for numbers.
EVENT = b"\x0a"  # GenerateStreamResponse.event and AttachGenerationResponse.event
SEQUENCE = b"\x08"  # GenerationEvent.sequence
DELTA = b"\x1a"  # GenerationEvent.delta
MERGED_BYTES = 1024 * 1024  # what deltas have together that become one; gRPC's stubs take messages of 4 MiB


def accepted(generation_id: str, sequence: int) -> bytes:
    """Returns a stream's first response, serialized."""
    event = generation_pb2.GenerationEvent(sequence=sequence)
    event.accepted.generation_id = generation_id
    return _response(event.SerializeToString())


def deltas(items: Sequence[LogItem]) -> Iterator[bytes]:
    """Yields the responses for log entries, serialized.

    A delta's bytes are those that the engine service made. Only when several wait, because the client lags, are
    neighbours of the same choice parsed and merged into one. Every sequence is thus still the end of a log entry.
    """
    if len(items) == 1:
        if (only := items[0].entry) is not None:
            yield _delta_response(items[0].sequence, only.delta)
        return
    for run in _runs(items):
        last, deltas_of_run = run[-1][0], [entry.delta for _, entry in run]
        yield _delta_response(last, deltas_of_run[0] if len(run) == 1 else merge(deltas_of_run).SerializeToString())


def _runs(items: Sequence[LogItem]) -> Iterator[list[tuple[int, store_pb2.LogEntry]]]:
    """Yields neighbours of the same choice that become one delta, with their sequences."""
    run: list[tuple[int, store_pb2.LogEntry]] = []
    size = 0
    for item in items:
        if (entry := item.entry) is None:
            continue
        if run and (entry.index != run[0][1].index or size + len(entry.delta) > MERGED_BYTES):
            yield run
            run, size = [], 0
        run.append((item.sequence, entry))
        size += len(entry.delta)
    if run:
        yield run


def merge(serialized: Sequence[bytes]) -> generation_pb2.Delta:
    """Returns one delta that stands for several of the same choice."""
    merged = generation_pb2.Delta()
    texts = []
    for one in serialized:
        delta = generation_pb2.Delta.FromString(one)
        texts.append(delta.text)
        merged.MergeFrom(delta)
    merged.text = "".join(texts)
    return merged


def finished(sequence: int, terminal: store_pb2.Terminal, attempts: int, trace_id: str, times: generation_pb2.Timings) -> bytes:
    """Returns a good stream's last response, serialized."""
    end = generation_pb2.Finished(
        choices=terminal.choices,
        usage=terminal.usage,
        timings=times,
        attempts=attempts,
        exact=terminal.exact,
        digest=terminal.digest,
        trace_id=trace_id,
    )
    return _response(generation_pb2.GenerationEvent(sequence=sequence, finished=end).SerializeToString())


def _delta_response(sequence: int, delta: bytes) -> bytes:
    """Wraps a delta's bytes without parsing them."""
    event = SEQUENCE + varint(sequence) + DELTA + varint(len(delta)) + delta
    return _response(event)


def _response(event: bytes) -> bytes:
    return EVENT + varint(len(event)) + event


def generation(record: Record, items: Sequence[LogItem], times: generation_pb2.Timings | None) -> generation_pb2.Generation:
    """Returns a whole generation, as far as the log items go."""
    terminal = items[-1].terminal if items else None
    whole = generation_pb2.Generation(
        generation_id=record.generation_id,
        model=record.job.model,
        state=terminal.state if terminal else record.state,
        choices=_choices(record.job.n, items, terminal),
        sequence=items[-1].sequence if items else 0,
        attempts=record.epoch,
        trace_id=record.job.trace_id,
        create_time=_timestamp(record.submitted_us),
    )
    if record.started_us is not None:
        whole.start_time.CopyFrom(_timestamp(record.started_us))
    if times is not None:
        whole.timings.CopyFrom(times)
    whole.prompt_logprobs.extend(_prompt_logprobs(items))
    if terminal is not None:
        _add_end(whole, terminal, items[-1].finished_us, record)
    return whole


def _add_end(whole: generation_pb2.Generation, terminal: store_pb2.Terminal, finished_us: int, record: Record) -> None:
    whole.finish_time.CopyFrom(_timestamp(finished_us))
    if record.expires_ms is not None:
        whole.expire_time.CopyFrom(_timestamp(record.expires_ms * 1000))
    if terminal.HasField("usage"):
        whole.usage.CopyFrom(terminal.usage)
    if terminal.HasField("error"):
        whole.error.CopyFrom(terminal.error)
    whole.exact = terminal.exact
    whole.digest = terminal.digest


def _choices(count: int, items: Sequence[LogItem], terminal: store_pb2.Terminal | None) -> Iterator[generation_pb2.Choice]:
    entries = [item.entry for item in items if item.entry is not None]
    ends = {entry.index: entry.end for entry in entries if entry.HasField("end")}
    ends |= {end.index: end for end in terminal.choices} if terminal else {}
    for index in range(count):
        whole = merge([entry.delta for entry in entries if entry.index == index])
        choice = generation_pb2.Choice(
            index=index, text=whole.text, token_ids=whole.token_ids, logprobs=whole.logprobs, end=ends.get(index)
        )
        yield choice


def _prompt_logprobs(items: Sequence[LogItem]) -> Sequence[generation_pb2.TokenLogprobs]:
    """Returns the prompt's log probabilities, which the first delta carries if they were asked for."""
    for item in items:
        if item.entry is not None and item.entry.index == 0:
            return generation_pb2.Delta.FromString(item.entry.delta).prompt_logprobs
    return ()


def server_timing(times: generation_pb2.Timings) -> str:
    """Returns the hops as a Server-Timing value (W3C), in milliseconds, for people who look at metadata."""
    hops = [f"{timings.hop_name(hop.kind)};dur={timings.milliseconds(hop.duration):.3f}" for hop in times.hops]
    return ", ".join([*hops, f"total;dur={timings.milliseconds(times.total):.3f}"])


def _timestamp(microseconds: int) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMicroseconds(microseconds)
    return timestamp
