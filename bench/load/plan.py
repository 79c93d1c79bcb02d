"""What is offered at a point of a measurement, before it, and by each client process. Pure."""

from dataclasses import dataclass, replace

from bench.load.workload import Workload

# Every point and process draws prompts of its own, or an engine would know them from the point before.
STREAMS_A_POINT = 1_000_000
STREAMS_OF_WARM_UP = STREAMS_A_POINT // 2


@dataclass(frozen=True)
class OfferedLoad:
    """What is offered at one point: a number of open requests, or a rate of arrivals.

    Attributes:
        concurrency: requests that are kept open; 0 in an open loop.
        rounds: requests of each user.
        ramp: seconds over which the users begin; 0: all at once.
        rate: arrivals a second; 0 in a closed loop.
        seconds: how long requests arrive in an open loop.
        first_stream: tells the point's prompts from others'.
    """

    workload: Workload
    concurrency: int = 0
    rounds: int = 0
    ramp: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0
    first_stream: int = 0

    @property
    def is_open(self) -> bool:
        return self.rate > 0

    @property
    def requests(self) -> int:
        """How many requests it has; of an open loop, about how many."""
        return round(self.rate * self.seconds) if self.is_open else self.concurrency * self.rounds

    def label(self) -> str:
        """Returns what a table or a line of progress calls it."""
        offered = f"{self.rate:g} requests/s" if self.is_open else f"concurrency {self.concurrency}"
        return f"{offered}, {self.workload.input_tokens} tokens in, {self.workload.output_tokens} out"


def warm_up(load: OfferedLoad, amount: int) -> OfferedLoad:
    """Returns what comes before a point: the same kind of load with other prompts, `amount` rounds or seconds of it."""
    first_stream = load.first_stream + STREAMS_OF_WARM_UP
    if load.is_open:
        return replace(load, seconds=float(amount), first_stream=first_stream)
    return replace(load, rounds=amount, first_stream=first_stream)


def shares(load: OfferedLoad, processes: int) -> list[OfferedLoad]:
    """Returns what each of some client processes offers. Of fewer users than processes some get none."""
    if load.is_open:
        part = replace(load, rate=load.rate / processes)  # Poisson processes add up to one
        return [replace(part, first_stream=load.first_stream + number) for number in range(processes)]
    result, first = [], load.first_stream
    for number in range(processes):
        users = load.concurrency // processes + (number < load.concurrency % processes)
        result.append(replace(load, concurrency=users, first_stream=first))
        first += users
    return result
