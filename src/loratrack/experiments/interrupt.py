"""Signals that end a training between two steps, with everything that it has learned on the disk.

Ctrl-C, SIGTERM     stop: a person or a machine wants it to end        exit code 130, 143
SIGHUP              stop: its terminal was closed, without nohup       exit code 129
SIGUSR1             pause: it will be wanted again, as Slurm asks it   exit code 75
the same again      now: what was saved last is what there is
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from loratrack.errors import StoppedError

PAUSE = signal.SIGUSR1
PAUSED = 75
"""The exit code of a run that wants to be resumed: EX_TEMPFAIL, try again later."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, PAUSE)

SEEN = b"\nstopping after this step; the same again ends at once, and loses what was not saved\n"


class Interruption:
    """The signal that asked the training to end, if one did."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._is_at_once = False

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """StoppedError at the moment of the signal, or now when it came before: nothing is half done here."""
        before, self._is_at_once = self._is_at_once, True
        try:
            if self:
                raise StoppedError
            yield
        finally:
            self._is_at_once = before

    def request(self, number: int, _: FrameType | None = None) -> None:
        if self.signal == number:
            raise KeyboardInterrupt
        is_first, self.signal = self.signal is None, self.signal or signal.Signals(number)
        if is_first and self._is_at_once:
            raise StoppedError
        if is_first and sys.stderr.isatty():  # a step may take seconds, and who sees nothing presses again
            os.write(sys.stderr.fileno(), SEEN)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """The first signal is noted for the loop to see; the same one again ends the process at once.

    Ctrl-C on `mlflow run` gives us SIGINT from the terminal and SIGTERM from MLflow: that is one wish.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if (number, handler) != (signal.SIGHUP, signal.SIG_IGN):  # nohup
            signal.signal(number, interruption.request)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
