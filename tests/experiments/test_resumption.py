"""A run that was left is known from one that is being trained."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from loratrack.checkpoints import About, home_of
from loratrack.errors import RefusedError, UserError
from loratrack.experiments.resumption import left_behind
from loratrack.experiments.sweep import leases_of
from loratrack.store import leases
from loratrack.store.place import store_folder

RUN = "a" * 32


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a checkpoint that says how far it is, and holds no training."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    home = home_of(store_folder(), RUN)
    about = About(
        run_id=RUN,
        exp_id="dual",
        config_sha256="",
        data_sha256="",
        attempt=home.claim(),
        step=3,
        epoch_steps=9,
        epochs=2,
    )
    home.publish(home.seal(home.draft(), about))
    return store_folder()


def test_a_run_that_is_being_trained_is_refused(store: Path) -> None:
    lease = leases.take(store, RUN)
    assert lease is not None
    with lease, pytest.raises(RefusedError, match=f"^run {RUN}: is being trained, by a process that lives$"):
        left_behind(RUN, print)


def test_a_run_whose_rest_is_being_sent_was_left(store: Path) -> None:
    """A process that sends what a dead one has left holds the run for a moment."""
    lease = leases.take(store, RUN)
    assert lease is not None
    sending = threading.Timer(0.3, lease.close)
    sending.start()
    with pytest.raises(UserError, match="cannot be read") as raised:  # it was taken up, and is empty
        left_behind(RUN, print)
    assert not isinstance(raised.value, RefusedError)
    sending.join()


def test_a_trial_that_has_left_checkpoints_alone_is_known_to_be_dead(store: Path) -> None:
    """Nobody waits for its heartbeat, although the file of its lease was cleared away."""
    is_alive = leases_of(store)
    assert not leases.lock_file(store, RUN).exists()
    assert is_alive(RUN) is False
    assert is_alive("b" * 32) is None
    lease = leases.take(store, RUN)
    assert lease is not None
    with lease:
        assert is_alive(RUN) is True
