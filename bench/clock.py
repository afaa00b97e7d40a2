"""Seconds, examples and tokens of training steps: not of the warm-up, nor of what lies between epochs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.assignment import Gate

GATE_SECONDS = 300


class Clock:
    """Told of every step as it ends.

    Work that a device has not finished yet is waited for where the clock starts and stops, and nowhere else.
    """

    def __init__(
        self,
        warm_up_steps: int,
        steps: int | None,
        *,
        at_start: Callable[[], None] = lambda: None,
        settle: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.warm_up_steps, self.steps = warm_up_steps, steps
        self.seconds, self.examples = 0.0, 0
        self.tokens: Any = 0
        """A number, or a tensor that nobody waits for until the end."""
        self._at_start, self._settle, self._now = at_start, settle, now
        self._count = 0
        self._since: float | None = None

    @property
    def is_over(self) -> bool:
        return self.steps is not None and self._count >= self.warm_up_steps + self.steps

    def step(self, examples: int, tokens: Any) -> None:
        """One step has ended; steps beyond the last one asked for are not counted."""
        if self.is_over:
            return
        self._count += 1
        if self._count > self.warm_up_steps:
            self.examples += examples
            self.tokens += tokens
        if self._count == self.warm_up_steps:
            self._at_start()
            self._start()
        if self.is_over:
            self.pause()

    def pause(self) -> None:
        """Before an evaluation. Does nothing while the clock stands."""
        if self._since is not None:
            self._settle()
            self.seconds += self._now() - self._since
            self._since = None

    def resume(self) -> None:
        """After an evaluation. Does nothing during the warm-up, after the last step, or while it runs."""
        if self._count >= self.warm_up_steps and not self.is_over and self._since is None:
            self._start()

    def _start(self) -> None:
        self._settle()
        self._since = self._now()


def wait_for_all(gate: Gate | None) -> None:
    """Return at about the same moment in each of the gate's processes."""
    if gate is None:
        return
    folder = Path(gate.folder)
    (folder / str(time.monotonic_ns())).touch()
    deadline = time.monotonic() + GATE_SECONDS
    while len(list(folder.iterdir())) < gate.parties:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {gate.parties} processes were ready after {GATE_SECONDS} s")
        time.sleep(0.02)
