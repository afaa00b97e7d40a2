"""How many trials train at once: more while that pays and the memory holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loratrack.tuning.parallelism import MEASURED_STEPS, UNMEASURED_STEPS, Parallelism

STEPS = UNMEASURED_STEPS + MEASURED_STEPS


def watch(seats: Parallelism, rate: Callable[[int], float], rounds: int = 10) -> int:
    """Steps at the rate that so many trials have together."""
    for _ in range(rounds * STEPS):
        seats.step(seats.count, seats.count * 32, seats.count * 32 / rate(seats.count))
    return seats.count


@pytest.mark.parametrize(
    ("rate", "count"),
    [
        (lambda trials: 100.0, 1),
        (lambda trials: 100.0 * min(trials, 4), 4),
        (lambda trials: 100.0 * trials**0.5, 32),
        (lambda trials: 100.0 * trials if trials < 8 else 50.0, 4),
    ],
)
def test_seats_double_while_the_rate_grows(rate: Callable[[int], float], count: int) -> None:
    seats = Parallelism("auto", lambda: 10**9)
    assert watch(seats, rate) == count
    assert seats.is_settled


def test_the_memory_limits_the_seats() -> None:
    left = {1: 900, 2: 800, 4: 600, 8: 200}
    seats = Parallelism("auto", iter([1000, left[1], left[2], left[4], left[8]]).__next__)
    assert watch(seats, lambda trials: 100.0 * trials) == 4


def test_a_number_is_a_number() -> None:
    seats = Parallelism(3, lambda: 0)
    assert watch(seats, lambda trials: 100.0 * trials) == 3


def test_steps_of_fewer_trials_say_nothing() -> None:
    seats = Parallelism("auto", lambda: 10**9)
    for _ in range(2 * STEPS):
        seats.step(0, 0, 1.0)
    assert seats.rates == {}
