"""Multi-label tasks: thresholds and scores against scikit-learn, and members beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from tests.training.test_losses import MIXED, SETTINGS, TOPICS, cohort_of

from loratrack.training.cohort import Cohort
from loratrack.training.objectives.classification import Predictions
from loratrack.training.objectives.multi_label import MultiLabel
from loratrack.training.objectives.task import Labels

TASK = MultiLabel(TOPICS, slice(1, 5), MIXED.train.labels)


def macro_f1(truth: Labels, told: Labels) -> float:
    right, both = (truth & told).sum(axis=0), truth.sum(axis=0) + told.sum(axis=0)
    return float(np.mean(2 * right / np.maximum(both, 1)))


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_has_a_better_macro_f1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, signal = int(rng.integers(1, 41)), rng.uniform(0, 3)
    truth = (rng.random((rows, 4)) < 0.4).astype(np.int8)
    truth[0] = 1  # each label occurs
    logits = torch.from_numpy(rng.normal(size=(rows, 4)) + signal * (truth - 0.5)).float()
    tuned = TASK.tuned_threshold(logits, torch.from_numpy(truth))
    probabilities = 1 / (1 + np.exp(-logits.double().numpy()))
    tried = {n / 100: macro_f1(truth, (probabilities >= n / 100).astype(np.int8)) for n in range(1, 100)}
    best = max(tried.values())
    assert tried[tuned] == pytest.approx(best)
    nearest = min(abs(threshold - 0.5) for threshold, value in tried.items() if value > best - 1e-9)
    assert abs(tuned - 0.5) == pytest.approx(nearest)


def test_the_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, told = (rng.random((2, 50, 4)) < 0.3).astype(np.int8)
    values = TASK.scores(truth, told)
    assert values["accuracy"] == accuracy_score(truth, told)
    assert values["f1"] == f1_score(truth, told, average="macro")
    assert values["f1_micro"] == f1_score(truth, told, average="micro")


def test_a_label_that_occurs_nowhere_is_counted_in_f1_all_labels_alone() -> None:
    truth = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=np.int8)
    values = Predictions([TASK], {"topics": truth}, {"topics": truth}, loss=0).scores()
    assert values == {"accuracy": 1, "f1": 1, "f1_micro": 1, "f1_all_labels": 0.5}
    nothing = np.zeros((3, 4), dtype=np.int8)
    assert TASK.scores(nothing, nothing)["f1"] == 0


def test_the_answers_are_rows_of_0_and_1() -> None:
    logits = torch.tensor([[0.0, 1, -1, 3]])
    assert TASK.answers(logits, 0.5).tolist() == [[1, 1, 0, 1]]
    assert TASK.answers(logits, 0.8).tolist() == [[0, 0, 0, 1]]


def epochs_of(cohort: Cohort) -> None:
    cohort.network.train()
    while cohort.training:
        cohort.end_epochs(cohort.step())


def test_members_with_several_labels_learn_the_same_alone_and_together(tmp_path: Path) -> None:
    together, members = cohort_of("packed", tmp_path / "all", *SETTINGS)
    epochs_of(together)
    for member in members:
        alone, [single] = cohort_of("packed", tmp_path, member.name)
        epochs_of(alone)
        for values, expected in zip(member.history, single.history, strict=True):
            for name in (
                "train/loss",
                "train/loss_topics",
                "validation/loss",
                "topics_f1",
                "topics_f1_micro",
            ):
                assert values[name] == pytest.approx(expected[name], abs=1e-5), (member.name, name)


def test_the_test_set_is_scored_with_the_threshold_of_the_validation_set(tmp_path: Path) -> None:
    cohort, members = cohort_of("padded", tmp_path, "plain")
    epochs_of(cohort)
    on_validation = cohort.objective.evaluate(cohort.network, "validation", members)["plain"]
    on_test = cohort.objective.evaluate(cohort.network, "test", members)["plain"]
    assert list(on_test.thresholds) == ["topics"]
    assert on_test.thresholds == on_validation.thresholds
    truth, predicted = on_test.answers()["topics"]
    assert truth.shape == predicted.shape == (16, 4)
