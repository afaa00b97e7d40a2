"""A run that was left is known from one that is being trained."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.checkpoints import About, home_of
from loratrack.errors import RefusedError, UserError
from loratrack.experiments.resumption import left_behind, resume
from loratrack.store import leases
from loratrack.store.place import store_folder
from loratrack.tracking.stopped import find

RUN = "a" * 32


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a checkpoint of `RUN`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    leave(RUN)
    return store_folder()


def leave(run_id: str) -> None:
    """A checkpoint that says how far it is, and holds no training."""
    home = home_of(store_folder(), run_id)
    about = About(
        run_id=run_id,
        exp_id="dual",
        config_sha256="",
        data_sha256="",
        attempt=home.claim(),
        step=3,
        epoch_steps=9,
        epochs=2,
    )
    home.publish(home.seal(home.draft(), about))


def test_a_run_that_is_being_trained_is_refused(store: Path) -> None:
    lease = leases.take(store, RUN)
    assert lease is not None
    refused = f"^run {RUN}: is being trained, by a process that lives; stop that one first$"
    with lease, pytest.raises(RefusedError, match=refused):
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


def test_a_run_that_ends_while_somebody_asks_for_it_is_finished(store: Path) -> None:
    """Its checkpoints are about to go: nobody is told that they are damaged, or to begin a new run."""
    run_id = MlflowClient().create_run("0").info.run_id
    leave(run_id)
    lease = leases.take(store, run_id)
    assert lease is not None

    def finish() -> None:
        MlflowClient().set_terminated(run_id)
        lease.close()

    ending = threading.Timer(0.3, finish)
    ending.start()
    with pytest.raises(RefusedError, match=f"^run {run_id}: is finished, so there is nothing to go on with"):
        resume(run_id)
    ending.join()


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("duel", "did you mean 'dual'?; stopped are: dual (aaaaaaaa); one of another project goes on in its"),
        (
            "nowhere",
            "stopped are: dual (aaaaaaaa); one of another project goes on in its folder",
        ),
        (
            "projects/dual.yaml",
            "got a config; loratrack run projects/dual.yaml --resume auto goes on",
        ),
    ],
)
def test_a_run_that_is_not_there_is_refused_with_what_to_do(store: Path, named: str, told: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(named)}: .*{re.escape(told)}"):
        find(store, named)
