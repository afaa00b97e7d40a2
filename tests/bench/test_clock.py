"""The clock counts measured steps only, and stands still during evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.assignment import Gate
from bench.clock import Clock, wait_for_all


class Time:
    """A time that passes only when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


def take_step(clock: Clock, time: Time, seconds: float, examples: int = 32) -> None:
    time.seconds += seconds
    clock.step(examples, 10 * examples)


def test_the_warm_up_is_not_counted(time: Time) -> None:
    clock = Clock(2, 3, now=time)
    for seconds in (100, 100, 1, 1, 1):
        take_step(clock, time, seconds)
    assert (clock.seconds, clock.examples, clock.tokens) == (3, 96, 960)
    assert clock.is_over


def test_steps_beyond_the_last_one_are_not_counted(time: Time) -> None:
    clock = Clock(1, 1, now=time)
    for _ in range(4):
        take_step(clock, time, 1)
    clock.resume()
    take_step(clock, time, 1)
    assert (clock.seconds, clock.examples) == (1, 32)


def test_evaluations_are_not_counted(time: Time) -> None:
    clock = Clock(1, None, now=time)
    take_step(clock, time, 1)
    take_step(clock, time, 2)
    clock.pause()
    time.seconds += 50
    clock.resume()
    take_step(clock, time, 3)
    clock.pause()
    clock.pause()
    assert clock.seconds == 5
    assert not clock.is_over


def test_an_epoch_that_ends_in_the_warm_up_starts_nothing(time: Time) -> None:
    clock = Clock(3, 1, now=time)
    take_step(clock, time, 1)
    clock.pause()
    clock.resume()
    take_step(clock, time, 1)
    take_step(clock, time, 1)
    take_step(clock, time, 4)
    assert clock.seconds == 4


def test_waiting_for_others_is_not_counted(time: Time) -> None:
    def wait() -> None:
        time.seconds += 30

    clock = Clock(1, 1, now=time, at_start=wait)
    take_step(clock, time, 1)
    take_step(clock, time, 2)
    assert clock.seconds == 2


def test_what_the_device_has_not_finished_is_waited_for(time: Time) -> None:
    def settle() -> None:
        time.seconds += 7

    clock = Clock(1, 1, now=time, settle=settle)
    take_step(clock, time, 1)
    take_step(clock, time, 2)
    assert clock.seconds == 2 + 7


def test_the_gate_opens_once_all_are_there(tmp_path: Path) -> None:
    (tmp_path / "another").touch()
    wait_for_all(Gate(folder=str(tmp_path), parties=2))
    assert len(list(tmp_path.iterdir())) == 2
