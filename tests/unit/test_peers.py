"""Which engines count as served while the worker directory cannot say so."""

import asyncio
from collections.abc import Callable

import pytest

from broker_worker import peers
from broker_worker.peers import Peers
from tests.support.waiting import eventually
from tokenrelay.errors import StoreUnavailableError

AWAY = 0.3  # seconds; longer than the grace, as an outage mostly is


class Directory:
    """One that says what it is told to."""

    def __init__(self) -> None:
        self.answer: Callable[[], set[str]] = lambda: {"f1"}
        self.delay = 0.0

    async def live_fingerprints(self, _: str) -> set[str]:
        await asyncio.sleep(self.delay)
        return self.answer()


def raise_away() -> set[str]:
    raise StoreUnavailableError("away", retry_after=1.0)


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Directory:
    monkeypatch.setattr(peers, "GRACE", AWAY / 3)
    return Directory()


@pytest.mark.parametrize("answer", [set, raise_away])
async def test_an_outage_makes_no_engine_unserved(directory: Directory, answer: Callable[[], set[str]]) -> None:
    known = Peers(directory, "model")  # type: ignore[arg-type]
    await known.refresh()
    # Nobody could announce itself meanwhile, so that all who are asked for first seem to be gone.
    directory.delay, directory.answer = AWAY, answer
    await known.refresh()
    assert known.fingerprints == {"f1"}


async def test_an_engine_that_has_left_counts_for_a_moment_only(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "GRACE", 2.0)  # so that half of it is longer than the time between two looks
    known = Peers(directory, "model")  # type: ignore[arg-type]
    await known.refresh()
    directory.answer = set
    await known.refresh()
    assert known.fingerprints == {"f1"}

    async def forgotten() -> bool:
        await known.refresh()
        return known.fingerprints == set()

    await eventually(forgotten, "the engine is forgotten")
