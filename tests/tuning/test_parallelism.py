"""How many trials train at once: more while that pays and the memory holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loratrack.tuning.parallelism import MEASURED_STEPS, UNMEASURED_STEPS, Parallelism

STEPS = UNMEASURED_STEPS + MEASURED_STEPS


def watch(parallelism: Parallelism, rate: Callable[[int], float], rounds: int = 10) -> int:
    """Steps at the rate that so many trials have together."""
    for _ in range(rounds * STEPS):
        parallelism.step(
            parallelism.count, parallelism.count * 32, parallelism.count * 32 / rate(parallelism.count)
        )
    return parallelism.count


@pytest.mark.parametrize(
    ("rate", "count"),
    [
        (lambda trials: 100.0, 1),
        (lambda trials: 100.0 * min(trials, 4), 4),
        (lambda trials: 100.0 * trials**0.5, 32),
        (lambda trials: 100.0 * trials if trials < 8 else 50.0, 4),
    ],
)
def test_parallel_trials_double_while_the_rate_grows(rate: Callable[[int], float], count: int) -> None:
    parallelism = Parallelism("auto", lambda: 10**9)
    assert watch(parallelism, rate) == count
    assert parallelism.is_settled


@pytest.mark.parametrize(("most", "count"), [(1, 1), (3, 2), (8, 8), (100, 32)])
def test_no_more_than_the_sampler_can_learn_from(most: int, count: int) -> None:
    parallelism = Parallelism("auto", lambda: 10**9, most)
    assert watch(parallelism, lambda trials: 100.0 * trials) == count
    assert Parallelism(16, lambda: 10**9, most).count == 16  # who names a number gets it


def test_the_memory_limits_the_parallel_trials() -> None:
    memory_left = iter([1000, 900, 800, 600, 200])
    parallelism = Parallelism("auto", memory_left.__next__)
    assert watch(parallelism, lambda trials: 100.0 * trials) == 4


def test_a_number_is_a_number() -> None:
    parallelism = Parallelism(3, lambda: 0)
    assert watch(parallelism, lambda trials: 100.0 * trials) == 3


def test_steps_of_fewer_trials_say_nothing() -> None:
    parallelism = Parallelism("auto", lambda: 10**9)
    for _ in range(2 * STEPS):
        parallelism.step(0, 0, 1.0)
    assert parallelism.rates == {}
