"""A member of a cohort: one adapter being trained, with everything that is its own."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.metrics import is_better
from loratrack.model import weights
from loratrack.model.network import Network
from loratrack.training.log import RunLog
from loratrack.training.objectives.evaluation import Evaluation
from loratrack.training.objectives.scores import scores
from loratrack.training.schedule import epoch_batches, learning_rate

Status = Literal["training", "finished", "failed", "stopped"]


@dataclass
class Best:
    epoch: int
    value: float


@dataclass
class Meter:
    """Losses of the epoch in hand; they stay on the device until they are read back."""

    rows: int = 0
    sums: NDArray[np.float64] | None = None
    """Of what was read, by task."""
    unread: list[tuple[Tensor, int]] = field(default_factory=list)
    """Losses of a step by task, summed over its rows; and how many rows it had."""

    def add(self, task_sums: Tensor, rows: int) -> None:
        self.rows += rows
        self.unread.append((task_sums, rows))

    def read(self) -> list[float]:
        """The loss of each step since the last reading."""
        if not self.unread:
            return []
        steps = torch.stack([task_sums for task_sums, _ in self.unread]).double().cpu().numpy()
        rows = [count for _, count in self.unread]
        self.sums = steps.sum(axis=0) if self.sums is None else self.sums + steps.sum(axis=0)
        self.unread.clear()
        values: list[float] = (steps.sum(axis=1) / rows).tolist()
        return values

    def means(self) -> list[float]:
        assert self.sums is not None, "an epoch has at least one step, and its losses were read"
        values: list[float] = (self.sums / self.rows).tolist()
        return values


class Member:
    """Nothing in here depends on the members beside it."""

    def __init__(
        self, name: str, config: RunConfig, network: Network, num_rows: int, log: RunLog, folder: Path
    ) -> None:
        self.name, self.config, self.network, self.log, self.folder = name, config, network, log, folder
        self.num_rows = num_rows
        self.status: Status = "training"
        self.reason = ""
        self.step = 0
        self.epoch = 1
        self.meter = Meter()
        self.history: list[dict[str, float]] = []
        self.best: Best | None = None
        self.loss_weights = config.loss_weights
        self.total_steps = math.ceil(num_rows / config.train.batch_size) * config.train.epochs
        self.flat_parameters = network.flat_parameters(name)
        self.optimizer = self._optimizer()
        self._batches = self._epoch()

    @property
    def is_training(self) -> bool:
        return self.status == "training"

    def next_batch(self) -> NDArray[np.int64] | None:
        """Row numbers of the next batch of this epoch; None when the epoch is over."""
        return next(self._batches, None)

    def learn(self, task_sums: Tensor, rows: int) -> None:
        """One step of the optimizer on the gradients there are; the losses of its rows are noted."""
        self.meter.add(task_sums, rows)
        train = self.config.train
        if train.max_grad_norm is not None:
            self.flat_parameters.clip(train.max_grad_norm)
        rate = learning_rate(train, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.flat_parameters.zero_grad()
        self.step += 1

    def check_losses(self) -> None:
        """Read the losses back; a loss that is no number ends this member, and no other."""
        losses = self.meter.read()
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None and self.is_training:
            step = self.step - len(losses) + bad + 1
            self.end("failed", f"the loss was {losses[bad]} at step {step}; {self._likely_cause(step)}")

    def epoch_seconds(self) -> float:
        return time.perf_counter() - self._started

    def end_epoch(self, evaluation: Evaluation, seconds: float) -> None:
        """Log the epoch, keep it when it is the best so far, and stop when it is time to."""
        values = self._epoch_metrics(evaluation, seconds)
        self.history.append(values)
        self.log.metrics(values, step=self.epoch)
        if self._is_best(values):
            self.best = Best(self.epoch, values.get(self.config.best_metric or "", math.nan))
            weights.save(self.network, self.name, self.folder)
        if self.epoch == self.config.train.epochs:
            self.end("finished")
        elif self._waited_too_long():
            self.end("finished", f"no better {self.config.best_metric} for {self.patience} epochs")
        else:
            self.epoch += 1
            self.meter = Meter()
            self._batches = self._epoch()

    def end(self, status: Status, reason: str = "") -> None:
        self.status, self.reason = status, reason
        if reason:
            self.log.notice(f"{self.config.exp_id}: {status} in epoch {self.epoch}: {reason}")

    def restore_best(self) -> None:
        """The weights of the best epoch back into the network."""
        weights.load(self.network, self.name, self.folder)

    @property
    def patience(self) -> int | None:
        return self.config.train.early_stopping_epochs

    def _waited_too_long(self) -> bool:
        if self.patience is None or self.best is None or self.config.best_metric is None:
            return False
        return self.epoch - self.best.epoch >= self.patience

    def _is_best(self, values: dict[str, float]) -> bool:
        metric = self.config.best_metric
        return metric is None or self.best is None or is_better(metric, values[metric], self.best.value)

    def _epoch_metrics(self, evaluation: Evaluation, seconds: float) -> dict[str, float]:
        means = dict(zip(self.loss_weights, self.meter.means(), strict=True))
        values = scores(evaluation.truth, evaluation.predicted, self.network.heads[self.name].classes)
        values["train/loss"] = sum(self.loss_weights[task] * loss for task, loss in means.items())
        values |= {f"train/loss_{task}": loss for task, loss in means.items()}
        values["validation/loss"] = evaluation.loss
        values["time/epoch_seconds"] = seconds
        values["time/examples_per_second"] = self.meter.rows / seconds
        return values

    def _likely_cause(self, step: int) -> str:
        if step == 1:
            return "nothing was learned yet, so the base's own weights or its precision are at fault"
        rate = learning_rate(self.config.train, step - 1, self.total_steps)
        return f"the likely cause is the learning rate ({rate:.2g}): lower train.lr or train.max_grad_norm"

    def _epoch(self) -> Iterator[NDArray[np.int64]]:
        self._started = time.perf_counter()
        train = self.config.train
        return iter(epoch_batches(self.num_rows, train.batch_size, train.seed, self.epoch))

    def _optimizer(self) -> torch.optim.AdamW:
        """Weight decay for matrices only. Fused: one kernel for all parameters."""
        groups = [
            {"params": [self.flat_parameters.matrices], "weight_decay": self.config.train.weight_decay},
            {"params": [self.flat_parameters.vectors], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.train.lr, fused=True)
