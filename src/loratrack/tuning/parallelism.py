"""How many trials train at once: as many as pay, and as the memory holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Literal

UNMEASURED_STEPS = 3
"""The first steps after a change are slow for other reasons."""
MEASURED_STEPS = 8
MIN_SPEEDUP = 1.1
"""Twice as many trials must train this many times faster together."""
MAX_TRIALS = 32
MEMORY_RESERVE = 1.5
"""The memory that is left must be this many times what the next trials are expected to take."""

MemoryLeft = Callable[[], int]
"""Bytes that could still be taken on the device."""


class Parallelism:
    """`count` is how many trials may train at once; with `auto` it doubles while that pays."""

    def __init__(
        self, parallel: Literal["auto"] | int, memory_left: MemoryLeft, max_trials: int | None = None
    ) -> None:
        """`max_trials`: the most that `auto` may come to."""
        self.count = 1 if parallel == "auto" else parallel
        self.is_settled = parallel != "auto"
        self._max_trials = min(MAX_TRIALS, max_trials or MAX_TRIALS)
        self.rates: dict[int, float] = {}
        """Examples a second, by the number of trials."""
        self._memory_left, self._memory_before = memory_left, memory_left()
        self._step_rates: list[float] = []

    def step(self, trials: int, examples: int, seconds: float) -> None:
        """One step of this many trials has ended."""
        if self.is_settled or trials != self.count:
            return
        self._step_rates.append(examples / seconds)
        if len(self._step_rates) < UNMEASURED_STEPS + MEASURED_STEPS:
            return
        rate = self.rates[self.count] = statistics.median(self._step_rates[UNMEASURED_STEPS:])
        self._step_rates = []
        rate_of_half = self.rates.get(self.count // 2)
        if rate_of_half is not None and rate < MIN_SPEEDUP * rate_of_half:
            self.is_settled = True
            self.count = self.count if rate > rate_of_half else self.count // 2
            return
        if 2 * self.count > self._max_trials:
            self.is_settled = True
            return
        # As many trials again are expected to take what the ones so far took.
        left = self._memory_left()
        taken = max(0, self._memory_before - left)
        if left > MEMORY_RESERVE * taken:
            self.count *= 2
        else:
            self.is_settled = True
