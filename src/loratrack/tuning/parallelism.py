"""How many trials train at once: as many as pay, and as the memory holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Literal

UNMEASURED_STEPS = 3
"""The first steps after a change are slow for other reasons."""
MEASURED_STEPS = 8
WORTHWHILE = 1.1
"""Twice as many trials must train this much faster together."""
MOST = 32
MEMORY_RESERVE = 1.5
"""What is left must be so many times what the next trials are expected to take."""

MemoryLeft = Callable[[], int]
"""Bytes that could still be taken on the device."""


class Parallelism:
    """`count` is how many trials may train at once; with `auto` it doubles while that pays."""

    def __init__(self, wanted: Literal["auto"] | int, memory_left: MemoryLeft) -> None:
        self.count = 1 if wanted == "auto" else wanted
        self.is_settled = wanted != "auto"
        self.rates: dict[int, float] = {}
        """Examples a second, by the number of trials."""
        self._memory_left, self._memory_before = memory_left, memory_left()
        self._times: list[float] = []

    def step(self, trials: int, examples: int, seconds: float) -> None:
        """One step of so many trials has ended."""
        if self.is_settled or trials != self.count:
            return
        self._times.append(examples / seconds)
        if len(self._times) == UNMEASURED_STEPS + MEASURED_STEPS:
            self._judge(statistics.median(self._times[UNMEASURED_STEPS:]))
            self._times = []

    def _judge(self, rate: float) -> None:
        self.rates[self.count] = rate
        before = self.rates.get(self.count // 2)
        if before is not None and rate < WORTHWHILE * before:
            self.is_settled = True
            self.count = self.count if rate > before else self.count // 2
        elif 2 * self.count > MOST or not self._memory_holds_twice():
            self.is_settled = True
        else:
            self.count *= 2

    def _memory_holds_twice(self) -> bool:
        left = self._memory_left()
        taken = max(0, self._memory_before - left)
        return left > MEMORY_RESERVE * taken
