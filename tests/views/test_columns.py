"""Values as a person reads them."""

from __future__ import annotations

import math
import sys

import pytest

from loratrack.index.runs import RunSummary, StoredRun
from loratrack.views.columns import columns, score, text_of


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("avg_f1", 0.93124, "0.9312"),
        ("avg_f1", sys.float_info.max, "inf"),  # what MLflow stores of an infinite value
        ("avg_f1", -sys.float_info.max, "-inf"),
        ("avg_f1", 1e300, "1e+300"),
        ("train/loss", sys.float_info.max, "inf"),
        ("train/loss", 12345.678, "12346"),
    ],
)
def test_a_number_is_short_however_large(name: str, value: float, shown: str) -> None:
    assert text_of(name, value) == shown


def test_a_real_infinity_is_short_too() -> None:
    assert score(math.inf) == "inf"


def test_a_reason_keeps_its_beginning_and_a_path_its_end() -> None:
    summary = RunSummary("a" * 32, "dual", "exp_v1", "FAILED", "1", "loratrack", 1000, 3500)
    text = "model.arch: there is no base /data/bases/of/mine"
    run = StoredRun(summary, {"error": text}, {"data.raw_data_path": "/data/projects/mine/train.csv"}, {}, ())
    cells = [each.cells[0] for each in columns([run], names=["error", "data.raw_data_path"])[2:]]
    assert cells == ["model.arch: there is no bas…", "…ata/projects/mine/train.csv"]


def test_the_baseline_stands_beside_the_score_that_it_is_compared_with() -> None:
    def run(metrics: dict[str, float]) -> StoredRun:
        summary = RunSummary("a" * 32, "dual", "exp_v1", "FINISHED", "1", "loratrack", 1000, 3500)
        return StoredRun(summary, {}, {}, metrics, ())

    one = {"best_f1": 0.9, "best_accuracy": 0.8, "baseline_f1": 0.7}
    several = {"best_avg_f1": 0.6, "best_a_f1": 0.5, "baseline_avg_f1": 0.65, "majority_avg_f1": 0.2}
    table = columns([run(one), run(several)])
    assert [(each.heading, each.cells) for each in table][3:] == [
        ("avg_f1", ("0.9000", "0.6000")),
        ("tfidf", ("0.7000", "0.6500")),
        ("a_f1", ("–", "0.5000")),
    ]
    assert "tfidf" not in [each.heading for each in columns([run({"best_f1": 0.9})])]
