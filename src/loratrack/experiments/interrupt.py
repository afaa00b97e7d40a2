"""SIGTERM and Ctrl-C end a training at the next step, with what it has so far kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """The signal that asked the training to end, if one did."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def request(self, number: int, _: FrameType | None = None) -> None:
        if self.signal == number:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """The first signal is noted for the loop to see; the same one again ends the process at once.

    Ctrl-C on `mlflow run` gives us SIGINT from the terminal and SIGTERM from MLflow: that is one wish.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, interruption.request)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
