"""Classification: one or more tasks on one encoder, each a head of the network and a loss of its own.

What a task is, and what is scored of it, stands in `task.py`; here the tasks become one objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.data import Dataset, Encoded
from loratrack.model.batch import Arrays, Batch, BatchLayout
from loratrack.model.network import Network
from loratrack.model.passes import predict
from loratrack.model.probe import Probe, probe_of
from loratrack.training.member import Member, Rows
from loratrack.training.objectives.multi_label import MultiLabel
from loratrack.training.objectives.objective import Answers, MicroBatch, Split
from loratrack.training.objectives.single_label import SingleLabel
from loratrack.training.objectives.task import F1_ALL_LABELS, Labels, Task

PROBE_ROWS = 32
"""Rows whose logits must come out the same when the saved model is loaded again."""


@dataclass(frozen=True)
class Predictions:
    """One member's answers to the rows of a split, in the order of the split."""

    tasks: Sequence[Task]
    truth: Mapping[str, Labels]
    predicted: Mapping[str, Labels]
    loss: float
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Of the multi-label tasks."""

    def scores(self) -> dict[str, float]:
        """The measures of each task, and the averages of accuracy and F1.

        Where the split has no row of some label, `f1_all_labels` counts these labels too, as 0: a perfect
        model does not reach 1 there.
        """
        lacks_labels = any((task.rows_of_labels(self.truth[task.name]) == 0).any() for task in self.tasks)
        is_single = len(self.tasks) == 1
        values: dict[str, float] = {}
        for task in self.tasks:
            prefix = "" if is_single else f"{task.name}_"
            for measure, value in task.scores(self.truth[task.name], self.predicted[task.name]).items():
                if lacks_labels or measure != F1_ALL_LABELS:
                    values[f"{prefix}{measure}"] = value
        if not is_single:
            for measure in ("accuracy", "f1", *([F1_ALL_LABELS] if lacks_labels else [])):
                values[f"avg_{measure}"] = float(
                    np.mean([values[f"{task.name}_{measure}"] for task in self.tasks])
                )
        return values

    def answers(self) -> dict[str, Answers]:
        return {
            task.name: (_ids_alone(self.truth[task.name]), _ids_alone(self.predicted[task.name]))
            for task in self.tasks
        }


def _ids_alone(labels: Labels) -> Labels:
    """A single column as one number for each row."""
    return labels[:, 0] if labels.shape[1] == 1 else labels


class Classification:
    """Every task is a head of the network; a member weighs its tasks by `train.loss_weight`."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        columns = dataset.label_map.columns
        self.tasks: list[Task] = [
            (MultiLabel if task.is_multi_label else SingleLabel)(
                task, columns[task.name], dataset.train.labels
            )
            for task in dataset.label_map.tasks
        ]

    @property
    def label_map(self) -> Mapping[str, object]:
        return self.dataset.label_map.to_dict()

    def add_member(self, network: Network, name: str, config: RunConfig) -> None:
        classes = {task.name: len(task.labels) for task in self.tasks}
        network.add(name, config.model.lora, classes, config.train.seed)

    def notices(self, config: RunConfig) -> list[str]:
        chosen = config.class_weights
        return [task.describe_weights(chosen[task.name]) for task in self.tasks if task.name in chosen]

    def arrays(self, batch_layout: BatchLayout, parts: Sequence[MicroBatch]) -> Arrays:
        """`labels` [rows, columns]; `weights` [rows, tasks]: a row counts less, the larger its batch.

        `class_weights` [members, classes of all tasks], where a member has any.
        """
        rows = np.concatenate([part.rows for part in parts])
        weights = [
            np.tile(
                [weight / len(part.batch) for weight in part.member.config.loss_weights.values()],
                (len(part.rows), 1),
            )
            for part in parts
        ]
        arrays: Arrays = {
            "labels": np.asarray(self.dataset.train.labels[rows], dtype=np.int64),
            "weights": np.concatenate(weights).astype(np.float32),
        }
        if any(part.member.config.class_weights for part in parts):
            arrays["class_weights"] = np.stack([self._class_weights(part) for part in parts])
        return arrays

    def _class_weights(self, part: MicroBatch) -> NDArray[np.float32]:
        """Of all tasks, in the order of the heads; they depend on the labels of the whole batch."""
        batch, chosen = self.dataset.train.labels[part.batch], part.member.config.class_weights
        weights = [
            task.batch_weights(task.class_weights(chosen.get(task.name, {})), batch[:, task.columns])
            for task in self.tasks
        ]
        return np.concatenate(weights).astype(np.float32)

    def loss(self, network: Network, batch: Batch, parts: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
        """The tasks' losses, weighed; reported are their sums over each member's rows, [members, tasks]."""
        names = [part.member.name for part in parts]
        settings = [part.member.config.train for part in parts]
        logits = network.heads[names[0]].split(network.logits(batch, names))
        labels, class_weights = batch.more["labels"], batch.more.get("class_weights")

        # Members whose losses are defined alike are computed together.
        kinds = {(train.label_smoothing, train.focal_gamma) for train in settings}
        groups = [slice(None)]
        if class_weights is not None or len(kinds) > 1:
            groups = [slice(*ends) for ends in pairwise(accumulate(batch.rows, initial=0))]
        losses_by_group = []
        for member, rows in enumerate(groups):
            weights: Mapping[str, Tensor] = {}
            if class_weights is not None:
                weights = network.heads[names[member]].split(class_weights[member])
            columns = [
                task.losses(
                    logits[task.name][rows],
                    labels[rows, task.columns],
                    settings[member],
                    weights.get(task.name),
                )
                for task in self.tasks
            ]
            losses_by_group.append(torch.stack(columns, dim=1))
        losses = torch.cat(losses_by_group)
        sums = [part.sum(dim=0) for part in torch.split(losses.detach(), list(batch.rows))]
        return (losses * batch.more["weights"]).sum(), torch.stack(sums)

    def num_targets(self, rows: Rows) -> int:
        return len(rows)

    def train_losses(self, member: Member, means: Sequence[float]) -> dict[str, float]:
        weights = member.config.loss_weights
        by_task = dict(zip(weights, means, strict=True))
        total = sum(weights[task] * loss for task, loss in by_task.items())
        return {"train/loss": total, **{f"train/loss_{task}": loss for task, loss in by_task.items()}}

    def evaluate(self, network: Network, split: Split, members: Sequence[Member]) -> dict[str, Predictions]:
        """All members in one pass over each batch of the split.

        The threshold of a multi-label task is tuned on the validation set, also where the test set is asked
        for.
        """
        names = [member.name for member in members]
        rows = self.dataset.test if split == "test" else self.dataset.validation
        assert rows is not None, "a test set is evaluated only where there is one"
        logits, labels = predict(network, rows, names), torch.from_numpy(np.array(rows.labels))
        tuning_logits, tuning_labels = logits, labels
        if split == "test" and any(isinstance(task, MultiLabel) for task in self.tasks):
            validation = self.dataset.validation
            tuning_logits = predict(network, validation, names)
            tuning_labels = torch.from_numpy(np.array(validation.labels))
        evaluations = {}
        for member in members:
            heads, weights = network.heads[member.name], member.config.loss_weights
            by_task, to_tune = heads.split(logits[member.name]), heads.split(tuning_logits[member.name])
            losses: list[float] = []
            thresholds: dict[str, float] = {}
            truth: dict[str, Labels] = {}
            predicted: dict[str, Labels] = {}
            for task in self.tasks:
                name, own = task.name, labels[:, task.columns]
                losses.append(weights[name] * task.plain_loss(by_task[name], own))
                threshold = task.tuned_threshold(to_tune[name], tuning_labels[:, task.columns])
                if threshold is not None:
                    thresholds[name] = threshold
                truth[name], predicted[name] = own.numpy(), task.answers(by_task[name], threshold)
            evaluations[member.name] = Predictions(
                self.tasks, truth, predicted, loss=float(sum(losses)), thresholds=thresholds
            )
        return evaluations

    def score(self, split: Split, predicted: Mapping[str, Labels]) -> dict[str, float]:
        """The scores of answers that somebody else gave to the rows of a split."""
        rows = self.dataset.test if split == "test" else self.dataset.validation
        assert rows is not None, "a test set is scored only where there is one"
        truth = {task.name: np.array(rows.labels[:, task.columns]) for task in self.tasks}
        return Predictions(self.tasks, truth, predicted, loss=0.0).scores()

    def probe(self, network: Network, member: str) -> Probe:
        """The first rows of the validation set."""
        split = self.dataset.validation
        count = min(PROBE_ROWS, len(split))
        end = int(split.offsets[count])
        types = None if split.token_types is None else split.token_types[:end]
        rows = Encoded(split.tokens[:end], split.offsets[: count + 1], types, split.labels[:count])
        return probe_of(rows, predict(network, rows, [member])[member], network.device)
