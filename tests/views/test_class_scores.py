"""`class_scores.csv`: what scikit-learn says of each label."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import classification_report

from loratrack.views import class_scores
from loratrack.views.curves import Answers


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def some_answers(num_labels: int, num_rows: int) -> Answers:
    """Of the last label no row is true, and of the one before none was predicted."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, num_labels - 1, num_rows)
    predicted = np.where(draw.random(num_rows) < 0.6, truth, draw.integers(0, num_labels, num_rows))
    predicted[predicted == num_labels - 2] = num_labels - 1
    names = ["高风险", "a,b", 'say "no"', "two\nlines", *(f"label {n}" for n in range(num_labels - 4))]
    return names, truth, predicted


def test_each_label_has_the_scores_of_scikit_learns_report(tmp_path: Path) -> None:
    answers = {"risk": some_answers(6, 100), "intent": some_answers(150, 2_000)}
    class_scores.write(tmp_path / "scores.csv", answers)
    rows = rows_of(tmp_path / "scores.csv")
    assert len(rows) == 156
    for task, (labels, truth, predicted) in answers.items():
        report = classification_report(
            truth,
            predicted,
            labels=np.arange(len(labels)),
            target_names=labels,
            output_dict=True,
            zero_division=0,
        )
        of_task = {row["label"]: row for row in rows if row["task"] == task}
        assert set(of_task) == set(labels)
        for label, row in of_task.items():
            values = {name: float(row[name]) for name in ("precision", "recall", "f1", "rows")}
            expected = report[label] | {"f1": report[label]["f1-score"], "rows": report[label]["support"]}
            assert values == pytest.approx({name: expected[name] for name in values}, abs=1e-6)


def test_the_worst_labels_come_first_and_those_without_rows_last(tmp_path: Path) -> None:
    class_scores.write(
        tmp_path / "scores.csv",
        {"t": (["never", "good", "bad"], np.array([1, 1, 2, 2, 2]), np.array([1, 1, 1, 2, 0]))},
    )
    assert (tmp_path / "scores.csv").read_text("utf-8").splitlines() == [
        "task,label,precision,recall,f1,rows",
        "t,bad,1,0.333333,0.5,3",
        "t,good,0.666667,1,0.8,2",
        "t,never,0,0,0,0",
    ]


def test_ten_thousand_labels_have_a_row_each(tmp_path: Path) -> None:
    class_scores.write(tmp_path / "scores.csv", {"t": some_answers(10_000, 20_000)})
    assert len(rows_of(tmp_path / "scores.csv")) == 10_000


def test_a_multi_label_task_has_the_scores_of_each_label(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    truth, predicted = (draw.random((2, 60, 3)) < 0.4).astype(np.int8)
    class_scores.write(tmp_path / "scores.csv", {"topics": (["a", "b", "c"], truth, predicted)})
    rows = {row["label"]: row for row in rows_of(tmp_path / "scores.csv")}
    report = classification_report(
        truth, predicted, target_names=list("abc"), output_dict=True, zero_division=0
    )
    for label in "abc":
        assert float(rows[label]["f1"]) == pytest.approx(report[label]["f1-score"], abs=1e-6)
        assert int(rows[label]["rows"]) == report[label]["support"]
