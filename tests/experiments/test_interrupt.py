from __future__ import annotations

import os
import signal

import pytest

from loratrack.experiments.interrupt import interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_second_ends_it(number: signal.Signals) -> None:
    with interruptible() as interruption:
        assert not interruption
        os.kill(os.getpid(), number)
        assert interruption.signal is number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_sigterm_after_ctrl_c_is_the_same_wish() -> None:
    with interruptible() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signal is signal.SIGINT


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
