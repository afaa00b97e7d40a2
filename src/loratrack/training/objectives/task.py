"""One task of a classification: its loss for each row, and how its answers are scored.

A task with one label a row is in `single_label.py`, one with any number of them in `multi_label.py`; they
are shaped alike. What a config can change in the loss is the same for both:

    train.class_weight       rows of some labels count more; the weights come from the training rows
    train.label_smoothing    the target is a little less than certain
    train.focal_gamma        times (1 - p) ** gamma, p being the probability of what is true
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from loratrack.config.train import BALANCED, Train
from loratrack.data import TaskLabels
from loratrack.errors import counted

F1_ALL_LABELS = "f1_all_labels"
MAX_LISTED_WEIGHTS = 6

Labels = NDArray[Any]
"""[rows, columns of the task]: see LabelMap.columns."""
Floats = NDArray[np.float64]
Choice = Literal["balanced"] | Mapping[str, float]


class Task(ABC):
    def __init__(self, task: TaskLabels, columns: slice, train: Labels) -> None:
        """`train`: the labels of the training rows, of all tasks."""
        self.name, self.labels, self.columns = task.name, task.labels, columns
        self.counts = self.rows_of_labels(train[:, columns])
        self.num_rows = len(train)

    @abstractmethod
    def rows_of_labels(self, labels: Labels) -> NDArray[np.int64]:
        """How many rows have each label."""

    @abstractmethod
    def constant_answer(self) -> Labels:
        """The one answer that is right for the most training rows, in the form of the labels of a row."""

    @abstractmethod
    def balanced_weights(self) -> Floats:
        """The weights of `balanced`; 1 for a label without training rows."""

    @abstractmethod
    def batch_weights(self, weights: Floats, batch: Labels) -> Floats:
        """`weights` as `losses` takes them, so that the mean of its losses over the batch is the loss."""

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, train: Train, weights: Tensor | None) -> Tensor:
        """Of each row, to be averaged over the batch. `weights`: what `batch_weights` gave, or none."""

    @abstractmethod
    def plain_loss(self, logits: Tensor, labels: Tensor) -> float:
        """The mean without weights, smoothing and focus: it compares runs that differ in these."""

    @abstractmethod
    def tuned_threshold(self, logits: Tensor, labels: Tensor) -> float | None:
        """The threshold with the best macro-F1 on these rows; None where none is needed."""

    @abstractmethod
    def answers(self, logits: Tensor, threshold: float | None) -> Labels:
        """What is predicted, in the form of the labels."""

    @abstractmethod
    def scores(self, truth: Labels, predicted: Labels) -> dict[str, float]:
        """`accuracy`, `f1` and so on; `f1_all_labels` counts labels without a row too, as 0."""

    def class_weights(self, choice: Choice) -> Floats:
        if choice == BALANCED:
            return self.balanced_weights()
        assert not isinstance(choice, str), "a config holds no other word"
        return np.array([choice.get(label, 1.0) for label in self.labels])

    def describe_weights(self, choice: Choice) -> str:
        """One line; of many labels the lowest and the highest weights."""
        weights = self.class_weights(choice)
        order = np.argsort(weights, kind="stable").tolist()
        shown = [
            f"{self.labels[one]} {weights[one]:.3g} ({counted(int(self.counts[one]), 'row')})"
            for one in order
        ]
        if len(shown) > MAX_LISTED_WEIGHTS:
            half = MAX_LISTED_WEIGHTS // 2
            shown = [*shown[:half], "…", *shown[-half:]]
        return f"class weights of {self.name}: {', '.join(shown)}"
