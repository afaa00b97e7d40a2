"""`loratrack register`: a version for a run that has none."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from mlflow.entities import Metric
from tests.cli.conftest import view

from loratrack.store.client import connect


def test_a_run_without_a_version_gets_one(ask: Any, trained: Any) -> None:
    assert ask("run", trained.config, "--set", "exp_id=loose; train.epochs=1; register=false")[0] == 0
    assert ask("register", "loose") == (0, "model        models:/tiny/4\n" + view("tiny/4"), "")
    assert ask("register", "loose") == (0, "model        models:/tiny/4\n" + view("tiny/4"), "")
    assert ask("register", "loose", "--name", "other") == (
        0,
        "model        models:/other/1\n" + view("other/1"),
        "",
    )
    version = connect().get_model_version("tiny", "4")
    assert version.tags["exp_id"] == "loose"
    assert set(version.tags) == {"exp_id", "best_avg_f1", "test_avg_f1"}
    assert ask("promote", "loose", "--model", "tiny")[0] == 0


def test_promote_registers_a_run_that_has_no_version(ask: Any, trained: Any) -> None:
    ask("run", trained.config, "--set", "exp_id=loose; train.epochs=1; register=false")
    assert ask("promote", "loose") == (
        0,
        "registered as tiny/4\npassed: the reloaded model reproduces the training logits\n"
        "tiny: champion moved from none to 4\n" + view("tiny/4"),
        "",
    )


def test_the_config_says_the_model_that_a_run_without_a_version_becomes_one_of(
    ask: Any, trained: Any
) -> None:
    def loose() -> str:  # it learns nothing
        settings = "exp_id=loose; train.lr=1e-9; train.epochs=1; register=best:fine"
        out = ask("run", trained.config, "--set", settings)[1]
        return str(re.findall(r"run          ([0-9a-f]{32})", out)[0])

    run_id = loose()
    assert ask("register", run_id) == (0, "model        models:/fine/1\n" + view("fine/1"), "")
    assert ask("rollback", "--model", "other", "--to", run_id)[2] == (
        f"loratrack: {run_id}: run {run_id} has no version of other;"
        f" loratrack register {run_id} --name other makes one\n"
    )
    assert ask("promote", loose())[1].startswith("registered as fine/2\n")


@pytest.mark.slow
def test_best_makes_a_version_only_of_a_model_that_beats_the_newest_on_the_same_rows(
    ask: Any, trained: Any
) -> None:
    client = connect()

    def run(*settings: str) -> str:
        learns = ("train.epochs=10", "model.pooling=mean", "train.loss_weight=[1, 0]")
        words = "; ".join(["register=best:fine", *learns, *settings])
        code, out, _ = ask("run", trained.config, "--set", words)
        assert code == 0
        return str(out)

    assert "register: best: fine has no version yet, so this is the first\n" in run()
    [first] = client.search_model_versions("name = 'fine'")
    score = client.get_run(str(first.run_id)).data.metrics["best_avg_f1"]
    other = "data.split_seed=1"
    assert (
        "register: best: no version of fine has best_avg_f1 on the same rows,"
        " so this one is made without a comparison\n"
    ) in run(other)
    same = run()
    run_id = re.findall(r"run          ([0-9a-f]{32})", same)[0]
    assert (
        f"not registered: best_avg_f1 {score:.4f} does not beat {score:.4f} of fine/1;"
        f" loratrack register {run_id} makes a version all the same\n"
    ) in same
    assert f"model        runs:/{run_id}\n" in same
    worse = Metric("best_avg_f1", 0.01, int(1000 * time.time()), 99)
    client.log_batch(str(client.get_model_version("fine", "2").run_id), metrics=[worse])
    assert " beats 0.0100 of fine/2\n" in run(other)


def test_a_run_that_learned_nothing_becomes_no_version_unless_it_is_asked_for(ask: Any, trained: Any) -> None:
    code, out, _ = ask("run", trained.config, "--set", "train.lr=1e-9; train.epochs=1; register=true")
    assert code == 0
    [run_id] = re.findall(r"run          ([0-9a-f]{32})", out)
    line = (
        f"not registered, for it learned nothing; loratrack register {run_id} makes a version all the same\n"
    )
    assert line in out
    folder = next(trained.folder.glob(f"mlruns/artifacts/*/{run_id}/artifacts"))
    assert (folder / "notices.txt").read_text("utf-8").endswith(line)
    assert ask("register", run_id)[1].startswith("model        models:/tiny/4\n")


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
