"""The wait for WAL ends when it is there, and says why when it does not come."""

from collections.abc import Iterator

import pytest

from pgkeep.backup.waiting import POLL, wait_for_wal
from pgkeep.errors import ArchiveStalled
from pgkeep.events import Event, discard


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds



def test_nothing_to_wait_for_says_nothing() -> None:
    events: list[Event] = []
    wait_for_wal(["a"], lambda _: True, lambda: "", events.append, timeout=1)
    assert events == []


def test_each_arrival_renews_the_patience() -> None:
    clock = Clock()
    times = {"a": 50.0, "b": 100.0, "c": 150.0}
    wait_for_wal(
        list(times),
        lambda name: clock.now >= times[name],
        lambda: "",
        discard,
        timeout=60,
        clock=clock,
        sleep=clock.sleep,
    )
    assert clock.now == pytest.approx(150, abs=2 * POLL)


def test_silence_ends_within_the_timeout_with_the_reason_and_a_way_out() -> None:
    clock = Clock()
    asked: Iterator[str] = iter(["the archiver failed 3 times"])
    with pytest.raises(ArchiveStalled) as caught:
        wait_for_wal(
            ["0001", "0002"],
            lambda name: name == "0001",
            lambda: next(asked),
            discard,
            timeout=60,
            clock=clock,
            sleep=clock.sleep,
        )
    assert clock.now <= 61
    assert "the first is 0002" in caught.value.message
    assert "failed 3 times" in caught.value.message
    assert "--wal stream" in (caught.value.hint or "")
