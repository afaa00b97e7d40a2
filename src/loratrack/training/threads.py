"""How many CPU threads: torch's own number, unless one alone is faster here and now.

Threads that wait for each other spin. Where another process or another guest of the same machine holds
a core, two threads were measured 20 times slower than one. So a step is measured at the start of a training,
and again when steps become several times slower than they were.

choose_threads(step_seconds, notice)
pace.slower(seconds, rows)      # 21.0 where the last steps took 21 times as long as at their best, else None
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

import torch

ROUNDS = 3
MAX_SHARE_OF_TIME = 0.9
"""Of the time with all threads: one thread must take less to be chosen."""
CLEAR_SHARE_OF_TIME = 0.25
"""Below it one round is enough: on a busy machine each of them takes seconds."""
WINDOW, ROWS = 8, 32
"""So many measurements are looked at together, each of at least so many rows: one slow step says nothing."""
TIMES_SLOWER = 3.0
"""Batches differ in length, and the clock of a processor in speed, by less than this."""


class Pace:
    """Whether steps take several times as long as they did."""

    def __init__(self) -> None:
        self._seconds, self._rows = 0.0, 0
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._best: float | None = None

    def slower(self, seconds: float, rows: int) -> float | None:
        """How many times as long as at their best the last steps took, where that is several times."""
        self._seconds, self._rows = self._seconds + seconds, self._rows + rows
        if self._rows < ROWS:
            return None
        self._last.append(self._seconds / self._rows)
        self._seconds, self._rows = 0.0, 0
        if len(self._last) < WINDOW:
            return None
        now = statistics.median_low(self._last)
        self._best = now if self._best is None else min(self._best, now)
        times = now / self._best
        return times if times > TIMES_SLOWER else None


def choose_threads(step_seconds: Callable[[], float], notice: Callable[[str], None]) -> None:
    """Set torch's threads to 1 when a step is clearly faster so; `step_seconds` times one training step."""
    usual = torch.get_num_threads()
    if usual == 1:
        return
    seconds: dict[int, list[float]] = {1: [], usual: []}
    best = usual
    try:
        torch.set_num_threads(1)
        step_seconds()  # the first step pays for what is built once
        for _ in range(ROUNDS):
            for count, times in seconds.items():
                torch.set_num_threads(count)
                times.append(step_seconds())
            medians = {count: statistics.median(times) for count, times in seconds.items()}
            if medians[1] < CLEAR_SHARE_OF_TIME * medians[usual]:
                break
        if medians[1] < MAX_SHARE_OF_TIME * medians[usual]:
            best = 1
    finally:
        torch.set_num_threads(best)
    told = ", ".join(f"{count}: {1000 * medians[count]:.0f} ms" for count in (usual, 1))
    if best != usual:
        notice(f"threads: 1, since this machine is busy (a step with {told}); train.threads sets the number")
