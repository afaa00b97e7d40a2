"""Classification: one label for each row and task; cross-entropy, accuracy and macro-F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.data import Dataset, Encoded
from loratrack.model.batch import Arrays, Batch, BatchLayout
from loratrack.model.network import Network
from loratrack.model.passes import predict
from loratrack.model.probe import Probe, probe_of
from loratrack.training.member import Member, Rows
from loratrack.training.objectives.objective import Answers, MicroBatch, Split

F1_ALL_LABELS = "f1_all_labels"
PROBE_ROWS = 32
"""Rows whose logits must come out the same when the saved model is loaded again."""


@dataclass(frozen=True)
class Predictions:
    """One member's answers to the rows of a split, in the order of the split."""

    classes: Mapping[str, int]
    """How many labels each task has, whether they occur in the split or not."""
    truth: Mapping[str, NDArray[np.int64]]
    predicted: Mapping[str, NDArray[np.int64]]
    loss: float

    def scores(self) -> dict[str, float]:
        """Accuracy and macro-F1 of each task, and their averages.

        `f1` is over the labels that occur in truth or prediction. Where the split has no row of some label,
        `f1_all_labels` counts these labels too, as 0: a perfect model does not reach 1 there.
        """
        labels_with_rows = {task: len(np.unique(labels)) for task, labels in self.truth.items()}
        lacks_labels = any(labels_with_rows[task] < count for task, count in self.classes.items())
        is_single = len(self.classes) == 1
        values: dict[str, float] = {}
        for task, count in self.classes.items():
            prefix = "" if is_single else f"{task}_"
            truth, predicted = self.truth[task], self.predicted[task]
            values[f"{prefix}accuracy"] = float(accuracy_score(truth, predicted))
            values[f"{prefix}f1"] = float(f1_score(truth, predicted, average="macro", zero_division=0))
            if lacks_labels:
                values[f"{prefix}{F1_ALL_LABELS}"] = float(
                    f1_score(truth, predicted, labels=np.arange(count), average="macro", zero_division=0)
                )
        if not is_single:
            for measure in ("accuracy", "f1", *([F1_ALL_LABELS] if lacks_labels else [])):
                values[f"avg_{measure}"] = float(
                    np.mean([values[f"{task}_{measure}"] for task in self.classes])
                )
        return values

    def answers(self) -> dict[str, Answers]:
        return {task: (self.truth[task], self.predicted[task]) for task in self.classes}


class Classification:
    """Every task is a head of the network; a member weighs its tasks by `train.loss_weight`."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @property
    def label_map(self) -> Mapping[str, object]:
        return self.dataset.label_map.to_dict()

    def add_member(self, network: Network, name: str, config: RunConfig) -> None:
        classes = {task.name: len(task.labels) for task in self.dataset.label_map.tasks}
        network.add(name, config.model.lora, classes, config.train.seed)

    def arrays(self, batch_layout: BatchLayout, parts: Sequence[MicroBatch]) -> Arrays:
        """`labels` [rows, tasks]; `weights` [rows, tasks]: a row counts less, the larger its batch."""
        rows = np.concatenate([part.rows for part in parts])
        weights = [
            np.tile(
                [weight / len(part.batch) for weight in part.member.config.loss_weights.values()],
                (len(part.rows), 1),
            )
            for part in parts
        ]
        return {
            "labels": np.asarray(self.dataset.train.labels[rows], dtype=np.int64),
            "weights": np.concatenate(weights).astype(np.float32),
        }

    def loss(self, network: Network, batch: Batch, members: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Cross-entropy; reported are its sums over each member's rows, [members, tasks]."""
        labels = batch.more["labels"]
        logits = network.heads[members[0]].split(network.logits(batch, members))
        columns = [
            F.cross_entropy(part, labels[:, column], reduction="none")
            for column, part in enumerate(logits.values())
        ]
        losses = torch.stack(columns, dim=1)
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
        """All members in one pass over each batch of the split."""
        rows = self.dataset.test if split == "test" else self.dataset.validation
        assert rows is not None, "a test set is evaluated only where there is one"
        logits = predict(network, rows, [member.name for member in members])
        labels = torch.from_numpy(np.array(rows.labels))
        evaluations = {}
        for member in members:
            heads = network.heads[member.name]
            by_task, weights = heads.split(logits[member.name]), member.config.loss_weights
            losses = [
                weights[task] * F.cross_entropy(part, labels[:, column]).item()
                for column, (task, part) in enumerate(by_task.items())
            ]
            evaluations[member.name] = Predictions(
                classes=heads.classes,
                truth={task: labels[:, column].numpy() for column, task in enumerate(by_task)},
                predicted={task: part.argmax(dim=-1).numpy() for task, part in by_task.items()},
                loss=float(sum(losses)),
            )
        return evaluations

    def score(self, split: Split, predicted: Mapping[str, NDArray[np.int64]]) -> dict[str, float]:
        """The scores of answers that somebody else gave to the rows of a split."""
        rows = self.dataset.test if split == "test" else self.dataset.validation
        assert rows is not None, "a test set is scored only where there is one"
        tasks = self.dataset.label_map.tasks
        return Predictions(
            classes={task.name: len(task.labels) for task in tasks},
            truth={task.name: np.array(rows.labels[:, column]) for column, task in enumerate(tasks)},
            predicted=predicted,
            loss=0.0,
        ).scores()

    def probe(self, network: Network, member: str) -> Probe:
        """The first rows of the validation set."""
        split = self.dataset.validation
        count = min(PROBE_ROWS, len(split))
        end = int(split.offsets[count])
        types = None if split.token_types is None else split.token_types[:end]
        rows = Encoded(split.tokens[:end], split.offsets[: count + 1], types, split.labels[:count])
        return probe_of(rows, predict(network, rows, [member])[member], network.device)
