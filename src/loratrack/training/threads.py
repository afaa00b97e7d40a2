"""How many CPU threads: torch's own number, unless one alone is faster here and now.

Threads that wait for each other spin. Where another process or another guest of the same machine holds
a core, two threads were measured 20 times slower than one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

ROUNDS = 3
MAX_SHARE_OF_TIME = 0.9
"""Of the time with all threads: one thread must take less to be chosen."""


def choose_threads(step_seconds: Callable[[], float], notice: Callable[[str], None]) -> None:
    """Set torch's threads to 1 when a step is clearly faster so; `step_seconds` times one training step."""
    usual = torch.get_num_threads()
    if usual == 1:
        return
    seconds: dict[int, list[float]] = {usual: [], 1: []}
    best = usual
    try:
        step_seconds()  # the first step pays for what is built once
        for _ in range(ROUNDS):
            for count, times in seconds.items():
                torch.set_num_threads(count)
                times.append(step_seconds())
        medians = {count: statistics.median(times) for count, times in seconds.items()}
        if medians[1] < MAX_SHARE_OF_TIME * medians[usual]:
            best = 1
    finally:
        torch.set_num_threads(best)
    told = ", ".join(f"{count}: {1000 * value:.0f} ms" for count, value in medians.items())
    if best != usual:
        notice(f"threads: 1, since this machine is busy (a step with {told}); train.threads sets the number")
