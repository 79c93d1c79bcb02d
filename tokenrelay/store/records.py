"""What a generation's record in Redis says, as typed values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from tokenrelay.errors import DataLossError
from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import generation_pb2


@dataclass(frozen=True)
class Record:
    """A generation's record. Instants are of Redis' clock; None is what has not happened or is not limited.

    Attributes:
        last: the last sequence in the log.
        epoch: the number of attempts so far.
        deadline_ms: when it expires, wherever it is.
        engine_deaths: how often in a row its engine has died before it gave a token.
        lost_attempts: those before the last one, in order.
    """

    generation_id: str
    state: generation_pb2.GenerationState.ValueType
    job: store_pb2.Job
    spec: bytes
    last: int
    epoch: int
    fingerprint: str
    submitted_us: int
    started_us: int | None
    claimed_us: int | None
    first_us: int | None
    finished_us: int | None
    deadline_ms: int | None
    expires_ms: int | None
    engine_deaths: int
    lost_attempts: tuple[store_pb2.LostAttempt, ...]

    @classmethod
    def parse(cls, generation_id: str, fields: Mapping[bytes, bytes]) -> "Record":
        """Reads the fields of the hash.

        Raises:
            DataLossError: they are not as we write them.
        """
        try:
            return cls._parse(generation_id, fields)
        except (KeyError, ValueError, DecodeError) as error:
            raise DataLossError(f"the record of generation {generation_id} is damaged: {error!r}") from error

    @classmethod
    def _parse(cls, generation_id: str, fields: Mapping[bytes, bytes]) -> "Record":

        def number(name: bytes) -> int | None:
            value = fields.get(name)
            return None if value is None else int(value)

        return cls(
            generation_id=generation_id,
            state=_state(fields[b"state"]),
            job=store_pb2.Job.FromString(fields[b"job"]),
            spec=fields.get(b"spec", b""),
            last=int(fields[b"last"]),
            epoch=int(fields[b"epoch"]),
            fingerprint=fields.get(b"fingerprint", b"").decode(),
            submitted_us=int(fields[b"submitted_us"]),
            started_us=number(b"started_us"),
            claimed_us=number(b"claimed_us"),
            first_us=number(b"first_us"),
            finished_us=number(b"finished_us"),
            deadline_ms=number(b"deadline"),
            expires_ms=number(b"expires"),
            engine_deaths=number(b"engine_deaths") or 0,
            lost_attempts=tuple(_parse_history(fields.get(b"history", b""))),
        )

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what its engine died of; it runs alone then, until it has given a token."""
        return self.engine_deaths > 0

    def timeline(self) -> store_pb2.Timeline:
        """Returns what the record knows of when what happened; the last attempt's engine is not in it."""
        return store_pb2.Timeline(
            received_us=self.job.received_at_us,
            enqueue_us=self.job.enqueue_at_us,
            submitted_us=self.submitted_us,
            lost_attempts=self.lost_attempts,
            claimed_us=self.claimed_us or 0,
            first_logged_us=self.first_us or 0,
        )


def _state(value: bytes) -> generation_pb2.GenerationState.ValueType:
    return generation_pb2.GenerationState.Value(generation_pb2.GenerationState.Name(int(value)))  # type: ignore[arg-type]


def _parse_history(text: bytes) -> Iterable[store_pb2.LostAttempt]:
    for attempt in text.decode().split(";"):
        if attempt:
            claimed, appended, *last = (int(number) for number in attempt.split(","))
            # What an older version has noted has no sequence.
            yield store_pb2.LostAttempt(claimed_us=claimed, appended_us=appended, sequence=last[0] if last else 0)


def as_mapping(flat: Iterable[bytes]) -> dict[bytes, bytes]:
    """Returns the mapping that HGETALL's flat reply inside a script stands for."""
    values = list(flat)
    return dict(zip(values[::2], values[1::2], strict=True))
