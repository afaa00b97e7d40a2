"""What counts as having learned nothing, and what is said of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from loratrack.config import RunConfig
from loratrack.experiments.verdict import against_baseline, agreement, is_worse, learned_nothing, remedies

FALLING = [{"train/loss": 0.9}, {"train/loss": 0.5}]
IDS = NDArray[np.int64]


def config(*tasks: str, **train: object) -> RunConfig:
    subset = dict.fromkeys(tasks, "all") if len(tasks) > 1 else None
    return RunConfig.model_validate(
        {
            "exp_id": "tiny",
            "task_type": "multi_cls" if len(tasks) > 1 else "single_cls",
            "data": {"raw_data_path": "rows.csv", "label_subset": subset},
            "train": {"lr": 2e-5, "epochs": 8, **train},
        }
    )


def rows(*counts: int) -> IDS:
    """So many rows of each label."""
    return np.repeat(np.arange(len(counts)), counts)


def test_always_the_same_answer_is_nothing() -> None:
    """Of the first hour of a user: 60 rows, accuracy 0.6167, F1 0.3814, and the model was registered."""
    truth = rows(37, 23)
    assert learned_nothing(config("label"), FALLING, {"label": (truth, np.zeros(60, np.int64))}) == (
        "learned nothing (61.7 % right, 61.7 % by always giving the same answer)"
    )


def test_the_last_epoch_of_a_multi_label_task_is_compared_by_its_macro_f1() -> None:
    last = config("label", save_strategy="last")
    last = last.model_copy(update={"data": last.data.model_copy(update={"multi_label": True})})
    metrics = {"best_f1": 0.5, "baseline_f1": 0.8, "best_f1_micro": 0.9, "baseline_f1_micro": 0.8}
    assert is_worse(last, metrics)
    assert against_baseline(last, metrics) == "worse than TF-IDF: f1 0.500 against 0.800"


def test_each_task_that_learned_nothing_is_named() -> None:
    truth = rows(37, 23)
    constant, perfect = (truth, np.zeros(60, np.int64)), (truth, truth)
    two = config("risk", "taken")
    assert learned_nothing(two, FALLING, {"risk": perfect, "taken": constant}) == (
        "learned nothing of taken (61.7 % right, 61.7 % by always giving the same answer)"
    )
    assert learned_nothing(two, FALLING, {"risk": perfect, "taken": perfect}) is None
    # Nobody wanted it to learn a task of weight 0.
    weighed = config("risk", "taken", loss_weight=[1, 0])
    assert learned_nothing(weighed, FALLING, {"risk": perfect, "taken": constant}) is None


def test_answers_drawn_by_lot_are_nothing() -> None:
    """Their macro-F1 is twice that of always the same answer, so a comparison of scores would miss them."""
    truth = rows(500, 500, 500, 500)
    drawn = np.tile(np.arange(4), 500)
    assert learned_nothing(config("label"), FALLING, {"label": (truth, drawn)}) == (
        "learned nothing (25.0 % right, 25.0 % by always giving the same answer)"
    )


def test_a_rare_label_found_is_something_though_the_accuracy_is_low() -> None:
    """As after `class_weight: balanced`: fewer answers are right than by always saying the frequent label."""
    truth = rows(190, 10)
    predicted = np.concatenate([np.zeros(170), np.ones(20), np.ones(8), np.zeros(2)]).astype(np.int64)
    assert np.mean(truth == predicted) < 0.95
    assert learned_nothing(config("label"), FALLING, {"label": (truth, predicted)}) is None


def test_a_loss_that_hardly_moved_is_nothing_where_the_answers_are_hardly_better_than_chance() -> None:
    truth = rows(*[10] * 150)
    predicted = np.where(np.arange(1500) % 10 == 0, truth, 0)  # a tenth of each label
    still = [{"train/loss": 5.013}, {"train/loss": 4.99}]
    answers = {"label": (truth, predicted)}
    assert learned_nothing(config("label"), still, answers) == (
        "learned nothing (10.6 % right, 0.7 % by always giving the same answer); the loss hardly"
        " moved, from 5.013 to 4.990"
    )
    assert learned_nothing(config("label"), [{"train/loss": 5.013}, {"train/loss": 4.2}], answers) is None
    # A training that goes on with a trained base has a loss that does not move, either.
    assert learned_nothing(config("label"), still, {"label": (truth, truth)}) is None


def test_of_several_labels_a_row_the_same_for_each_row_is_nothing() -> None:
    """To know that one label is frequent and another one rare is 90 % right, and nothing learned."""
    draw = np.random.default_rng(0)
    truth = (draw.random((300, 2)) < [0.9, 0.1]).astype(np.int8)
    constant = np.tile(np.array([1, 0], np.int8), (300, 1))
    said = learned_nothing(config("label"), FALLING, {"label": (truth, constant)})
    assert said is not None
    assert re.fullmatch(
        r"learned nothing \((\d\d\.\d) % of the decisions on single labels right,"
        r" \1 % by always giving the same answer\)",
        said,
    )
    half = np.where(draw.random((300, 2)) < 0.5, truth, constant)
    assert learned_nothing(config("label"), FALLING, {"label": (truth, half)}) is None


def test_rows_of_one_label_say_nothing() -> None:
    truth = rows(20)
    assert learned_nothing(config("label"), FALLING, {"label": (truth, truth)}) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_agreement_is_cohens_kappa(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 4, 80)
    predicted = np.where(draw.random(80) < 0.3 * seed, truth, draw.integers(0, 5, 80))
    assert agreement(truth, predicted)[0] == pytest.approx(cohen_kappa_score(truth, predicted))


METRICS = {"best_accuracy": 0.93, "best_f1": 0.955, "baseline_accuracy": 0.94, "baseline_f1": 0.901}
TWO = {
    "best_avg_f1": 0.9,
    "best_risk_f1": 0.95,
    "best_taken_f1": 0.85,
    "baseline_avg_f1": 0.89,
    "baseline_risk_f1": 0.9,
    "baseline_taken_f1": 0.88,
}


def test_the_kept_epoch_is_compared_by_the_metric_it_was_kept_for() -> None:
    assert against_baseline(config("label"), METRICS) == "beats TF-IDF by 5.4 points (f1 0.955 against 0.901)"
    by_accuracy = config("label", save_strategy="best_accuracy")
    assert against_baseline(by_accuracy, METRICS) == "worse than TF-IDF: accuracy 0.930 against 0.940"
    assert is_worse(by_accuracy, METRICS)
    last = config("label", save_strategy="last")
    assert against_baseline(last, METRICS) == against_baseline(config("label"), METRICS)
    same = {"best_f1": 0.9, "baseline_f1": 0.904}
    assert against_baseline(config("label"), same) == "as good as TF-IDF: f1 0.900 against 0.904"
    assert not is_worse(config("label"), same)


def test_of_several_tasks_those_that_are_worse_are_named() -> None:
    assert against_baseline(config("risk", "taken"), TWO) == (
        "beats TF-IDF by 1.0 points (avg_f1 0.900 against 0.890); worse: taken_f1 0.850 against 0.880"
    )


def test_without_a_baseline_nothing_is_compared() -> None:
    assert against_baseline(config("label"), {"best_f1": 0.5, "majority_f1": 0.6}) is None
    assert not is_worse(config("label"), {"best_f1": 0.5, "majority_f1": 0.6})


def test_what_to_try_depends_on_what_was_tried() -> None:
    bad = {"tokens": {"train": {"truncated_share": 0.46}}, "vocabulary": {"broken_share": 0.7}}
    assert remedies(config("label"), 8, 2e-3, bad) == (
        "try a base that knows the language of the texts, train.lr=0.002 (now 2e-05), a larger"
        " data.max_len (now 128, which cuts 46 % of the texts) or more train.epochs (now 8)"
    )
    assert remedies(config("label", lr=1e-3), 5, 2e-3, {}) == "try more train.epochs (now 8) or another base"
    assert remedies(config("label", lr=1e-3), 4, 2e-3, {}) == (
        "try more rows (the best epoch was 4 of 8) or another base"
    )
