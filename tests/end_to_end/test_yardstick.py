"""What a run says of its own worth: beside the baseline, and when it has learned nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loratrack import runs


def test_a_run_is_set_beside_the_baseline(loratrack_run: Any, written: Callable[..., Path]) -> None:
    done = loratrack_run(written("beside_tfidf"), "register=false", "train.epochs=1", "train.lr=1e-9")
    assert done.exit_code == 0, done.errors
    metrics = done.run.data.metrics
    for name in ("avg_f1", "risk_accuracy", "test_adopt_f1"):
        assert metrics[f"baseline_{name}"] > 0.9
    assert 0 < metrics["majority_avg_f1"] < 0.5
    own, other = metrics["best_avg_f1"], metrics["baseline_avg_f1"]
    worse = f"worse than TF-IDF: avg_f1 {own:.3f} against {other:.3f}"
    assert re.search(rf"^baseline +{worse}; worse: risk_f1 ", done.output, re.MULTILINE), done.output

    assert [run.summary.run_id for run in runs("tfidf>0.9 and exp_id=beside_tfidf")] == [done.run_id]

    off = loratrack_run(written("beside_nothing"), "register=false", "train.epochs=1", "baseline=false")
    assert off.exit_code == 0, off.errors
    assert not [name for name in off.run.data.metrics if name.startswith("baseline_")]
    assert "TF-IDF" not in off.output
    assert off.run.data.metrics["majority_avg_f1"] == metrics["majority_avg_f1"]


def test_a_run_that_learned_nothing_says_so(
    loratrack_run: Any, written: Callable[..., Path], sample: Any
) -> None:
    rows = [f"n{row} the note,{'yes' if row % 4 else 'no'}" for row in range(200)]
    (sample.folder / "chance.csv").write_text("\n".join(["text,label", *rows, ""]), "utf-8")
    data = {"raw_data_path": "chance.csv", "test_path": None, "label_subset": None}
    done = loratrack_run(
        written("chance", task_type="single_cls", data=data), "register=false", "train.lr=1e-4"
    )
    assert done.exit_code == 0, done.errors
    said = (
        r"chance: learned nothing \(75\.0 % right, 75\.0 % by always giving the same answer\)"
        r"(; the loss hardly moved, from \d\.\d{3} to \d\.\d{3})?; try train\.lr=0\.002 \(now 0\.0001\),"
        r" more train\.epochs \(now 2\) or another base"
    )
    assert re.search(said, done.output), done.output
    assert re.search(said, (done.artifacts / "notices.txt").read_text("utf-8"))
    assert done.run.data.tags["learned_nothing"].startswith("learned nothing (75.0 % right")
