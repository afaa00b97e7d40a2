"""A task with any number of labels a row: a yes or no for each, by one threshold; micro- and macro-F1.

The threshold is tuned on the validation set after each epoch: at 0.5 rare labels are not predicted for many
epochs, and all epochs and settings would look alike. It is one for all labels, since one for each label
would be fitted to the few rows of the rare ones.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from loratrack.config.train import Train
from loratrack.model.thresholds import reached
from loratrack.training.objectives.task import F1_ALL_LABELS, Floats, Labels, Task

F1_MICRO = "f1_micro"
THRESHOLDS = np.arange(1, 100) / 100
SAME_F1 = 1e-9
"""Means that differ by less are equal but for the order of their sums."""


class MultiLabel(Task):
    """A column of 0 and 1 for each label."""

    def rows_of_labels(self, labels: Labels) -> NDArray[np.int64]:
        return np.asarray(labels.sum(axis=0), dtype=np.int64)

    def constant_answer(self) -> Labels:
        return (2 * self.counts > self.num_rows).astype(np.int8)

    def balanced_weights(self) -> Floats:
        """Rows without the label for each row with it: both sides then weigh the same."""
        without = np.maximum(self.num_rows - self.counts, 1)
        return np.where(self.counts > 0, without / np.maximum(self.counts, 1), 1.0)

    def batch_weights(self, weights: Floats, batch: Labels) -> Floats:
        """torch's `pos_weight` leaves the mean over the rows as it is."""
        return weights

    def losses(self, logits: Tensor, labels: Tensor, train: Train, weights: Tensor | None) -> Tensor:
        """Binary cross-entropy, summed over the labels: minus the logarithm of the probability of them all.

        So it is of one kind with the cross-entropy of a single label. Averaged over the labels, a task would
        count the less beside others, the more labels it has.
        """
        truth = labels.to(logits.dtype)
        targets = truth * (1 - train.label_smoothing) + train.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
        if train.focal_gamma:
            log_of_rest = F.logsigmoid(logits * (1 - 2 * truth))
            losses = losses * torch.exp(train.focal_gamma * log_of_rest)
        return losses.sum(dim=-1)

    def plain_loss(self, logits: Tensor, labels: Tensor) -> float:
        losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
        return losses.sum(dim=-1).mean().item()

    def tuned_threshold(self, logits: Tensor, labels: Tensor) -> float:
        """Of equal ones the nearest to 0.5."""
        truth = labels.numpy()
        num_labels, num_steps = len(self.labels), len(THRESHOLDS) + 1
        # How many thresholds each probability reaches, counted by label: all rows and those with the label.
        num_reached = np.searchsorted(THRESHOLDS, torch.sigmoid(logits).double().numpy(), side="right")
        cells = num_reached + np.arange(num_labels) * num_steps
        size = num_labels * num_steps
        told, right = (
            np.bincount(some.ravel(), minlength=size).reshape(num_labels, num_steps)
            for some in (cells, cells[truth > 0])
        )
        # From the highest threshold down, for the labels are predicted that reach this one or a higher one.
        num_told, num_right = (each[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:] for each in (told, right))
        num_true = truth.sum(axis=0, dtype=np.int64)[:, None]
        has_f1 = num_told + num_true > 0
        f1 = 2 * num_right / np.maximum(num_told + num_true, 1)
        means = f1.sum(axis=0) / np.maximum(has_f1.sum(axis=0), 1)
        best = np.flatnonzero(means >= means.max() - SAME_F1)
        return float(THRESHOLDS[best[np.argmin(np.abs(THRESHOLDS[best] - 0.5))]])

    def answers(self, logits: Tensor, threshold: float | None) -> Labels:
        assert threshold is not None, "a multi-label task has a threshold"
        return reached(logits, threshold).numpy().astype(np.int8)

    def scores(self, truth: Labels, predicted: Labels) -> dict[str, float]:
        """`accuracy` counts the rows whose labels are all right, and no other."""
        occurring = np.flatnonzero((truth | predicted).any(axis=0))
        macro = 0.0
        if len(occurring):
            macro = float(f1_score(truth, predicted, labels=occurring, average="macro", zero_division=0))
        return {
            "accuracy": float(accuracy_score(truth, predicted)),
            "f1": macro,
            F1_MICRO: float(f1_score(truth, predicted, average="micro", zero_division=0)),
            F1_ALL_LABELS: float(f1_score(truth, predicted, average="macro", zero_division=0)),
        }
