"""`loratrack register`: a version for a run that has none."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import view

from loratrack.store.client import connect


def test_a_run_without_a_version_gets_one(ask: Any, trained: Any) -> None:
    assert ask("run", trained.config, "--set", "exp_id=loose; train.epochs=1; register=false")[0] == 0
    code, _, err = ask("promote", "loose")
    assert code == 1
    assert "loratrack register" in err
    assert ask("register", "loose") == (0, "model        models:/tiny/4\n" + view("tiny/4"), "")
    assert ask("register", "loose") == (0, "model        models:/tiny/4\n" + view("tiny/4"), "")
    assert ask("register", "loose", "--name", "other") == (
        0,
        "model        models:/other/1\n" + view("other/1"),
        "",
    )
    version = connect().get_model_version("tiny", "4")
    assert version.tags["exp_id"] == "loose"
    assert {"best_avg_f1", "test_avg_f1"} <= set(version.tags)
    assert ask("promote", "loose", "--model", "tiny")[0] == 0


def test_a_run_that_was_killed_after_its_files_arrived_is_complete(ask: Any) -> None:
    run_id = connect().get_model_version("tiny", "1").run_id
    assert run_id is not None
    connect().set_terminated(run_id, "FAILED")
    assert ask("register", run_id, "--name", "again")[1].startswith("model        models:/again/1\n")


def test_a_run_without_a_model_is_refused(ask: Any) -> None:
    client = connect()
    experiment_id = client.get_run(str(client.get_model_version("tiny", "1").run_id)).info.experiment_id
    empty = client.create_run(experiment_id, run_name="empty").info.run_id
    assert ask("register", empty)[2].endswith("tells no project\n")
    code, _, err = ask("register", empty, "--name", "tiny")
    assert code == 1
    assert err == (
        f"loratrack: run {empty} (RUNNING): has kept no model to register;"
        " if its files wait here, loratrack sync sends them\n"
    )
