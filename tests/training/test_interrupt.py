from __future__ import annotations

import os
import signal

import pytest

from loratrack.training.interrupt import interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_ends_it(number: signal.Signals) -> None:
    with interruptible() as interruption:
        assert not interruption
        os.kill(os.getpid(), number)
        assert interruption.signal is number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
