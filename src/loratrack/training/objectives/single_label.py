"""A task with one label a row: cross-entropy, accuracy and macro-F1."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from loratrack.config.train import Train
from loratrack.training.objectives.task import F1_ALL_LABELS, Floats, Labels, Task


class SingleLabel(Task):
    """One column, with the local id of the label."""

    def rows_of_labels(self, labels: Labels) -> NDArray[np.int64]:
        return np.bincount(labels[:, 0], minlength=len(self.labels))

    def constant_answer(self) -> Labels:
        return np.array([self.counts.argmax()])

    def balanced_weights(self) -> Floats:
        """As scikit-learn defines it: rows / (labels × rows of the label)."""
        has_rows = self.counts > 0
        weights = np.ones(len(self.labels))
        weights[has_rows] = self.num_rows / (has_rows.sum() * self.counts[has_rows])
        return weights

    def batch_weights(self, weights: Floats, batch: Labels) -> Floats:
        """torch divides the sum of the weighted losses by the sum of the weights, not by the rows."""
        scale: float = len(batch) / weights[batch[:, 0]].sum()
        return weights * scale

    def losses(self, logits: Tensor, labels: Tensor, train: Train, weights: Tensor | None) -> Tensor:
        labels = labels[:, 0]
        losses = F.cross_entropy(
            logits, labels, weight=weights, label_smoothing=train.label_smoothing, reduction="none"
        )
        if not train.focal_gamma:
            return losses
        # 1 - p in logarithms: where p rounds to 1, a power of 1 - p has no gradient that is a number.
        others = logits.scatter(-1, labels[:, None], -math.inf)
        log_of_rest = others.logsumexp(dim=-1) - logits.logsumexp(dim=-1)
        return losses * torch.exp(train.focal_gamma * log_of_rest)

    def plain_loss(self, logits: Tensor, labels: Tensor) -> float:
        return F.cross_entropy(logits, labels[:, 0].long()).item()

    def tuned_threshold(self, logits: Tensor, labels: Tensor) -> None:
        return None

    def answers(self, logits: Tensor, threshold: float | None) -> Labels:
        return logits.argmax(dim=-1, keepdim=True).numpy()

    def scores(self, truth: Labels, predicted: Labels) -> dict[str, float]:
        """`f1` is over the labels that occur in truth or prediction."""
        true, told = truth[:, 0], predicted[:, 0]
        every = np.arange(len(self.labels))
        return {
            "accuracy": float(accuracy_score(true, told)),
            "f1": float(f1_score(true, told, average="macro", zero_division=0)),
            F1_ALL_LABELS: float(f1_score(true, told, labels=every, average="macro", zero_division=0)),
        }
