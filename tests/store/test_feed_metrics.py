"""How many follow is asked by the metrics endpoint, on a thread of its own, while followers come and go."""

import sys
import threading

from tests.store.conftest import Bench
from tests.store.test_feed import feed_of
from tokenrelay.store import keys


async def test_followers_can_be_counted_on_another_thread(bench: Bench) -> None:
    feed = feed_of(bench)
    kept = [feed.follow(keys.new_generation_id(0), 0, from_log=False) for _ in range(500)]
    failures: list[Exception] = []
    ended = threading.Event()

    def scrape() -> None:
        while not ended.is_set():
            try:
                len(feed)
            except Exception as error:
                failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that the threads take turns in the middle of everything
    scraping = threading.Thread(target=scrape)
    scraping.start()
    try:
        for _ in range(20_000):
            feed.unfollow(feed.follow(keys.new_generation_id(0), 0, from_log=False))
    finally:
        ended.set()
        scraping.join()
        sys.setswitchinterval(before)
    assert failures == []
    assert len(feed) == len(kept)
