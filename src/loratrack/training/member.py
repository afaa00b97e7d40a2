"""A member of a cohort: one adapter being trained, with everything that is its own.

It knows its batches, its optimizer and its history. What is learned and how it is scored is the objective's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.config import RunConfig
from loratrack.errors import counted
from loratrack.metrics import is_better
from loratrack.model import weights
from loratrack.model.network import Network
from loratrack.training.log import RunLog
from loratrack.training.optimizers import new_optimizer
from loratrack.training.schedule import epoch_batches, learning_rate

Status = Literal["training", "finished", "failed", "stopped"]
Rows = NDArray[np.int64]


@dataclass
class Best:
    """The evaluation whose weights are kept: of several with the same value that with the lowest loss."""

    epoch: int
    """In which it was, or which it ended."""
    step: int
    values: Mapping[str, float]
    since: int
    """The first epoch with this value; a lower loss alone does not put early stopping off."""


@dataclass
class Meter:
    """Losses of the current epoch; they stay on the device until they are read back."""

    rows: int = 0
    targets: int = 0
    """What the losses are averaged over."""
    sums: NDArray[np.float64] | None = None
    """Of all losses read so far, by part of the loss."""
    unread: list[tuple[Tensor, int]] = field(default_factory=list)
    """Losses of a step, summed over its targets, by part; and how many targets it had."""

    def add(self, losses: Tensor, num_rows: int, num_targets: int) -> None:
        self.rows += num_rows
        self.targets += num_targets
        self.unread.append((losses, num_targets))

    def read(self) -> list[float]:
        """The loss of each step since the last reading."""
        if not self.unread:
            return []
        steps = torch.stack([losses for losses, _ in self.unread]).double().cpu().numpy()
        targets = [count for _, count in self.unread]
        self.sums = steps.sum(axis=0) if self.sums is None else self.sums + steps.sum(axis=0)
        self.unread.clear()
        values: list[float] = (steps.sum(axis=1) / targets).tolist()
        return values

    def means(self) -> list[float]:
        """The mean of each part of the loss over what was read."""
        assert self.sums is not None, "an epoch has at least one step, and its losses were read"
        values: list[float] = (self.sums / self.targets).tolist()
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
        self.evaluated_step = 0
        """At which `eval_steps` was last obeyed."""
        self.meter = Meter()
        self.history: list[dict[str, float]] = []
        self.best: Best | None = None
        self.epoch_steps = math.ceil(num_rows / config.train.batch_size)
        whole = self.epoch_steps * config.train.epochs
        self.total_steps = min(whole, config.train.max_steps or whole)
        self.epochs = math.ceil(self.total_steps / self.epoch_steps)
        """The last of them is a part where `max_steps` ends it."""
        self.flat_parameters = network.flat_parameters(name)
        self.optimizer = new_optimizer(config.train, self.flat_parameters, network.parameters(name))
        self._batches = self._start_epoch()

    @property
    def is_training(self) -> bool:
        return self.status == "training"

    def next_batch(self) -> Rows:
        """Row numbers of the next batch of this epoch."""
        return next(self._batches)

    @property
    def is_epoch_over(self) -> bool:
        return self.step == self._epoch_end

    @property
    def _epoch_end(self) -> int:
        return min(self.epoch * self.epoch_steps, self.total_steps)

    @property
    def is_due(self) -> bool:
        """Whether `eval_steps` asks for an evaluation now; the end of an epoch has one anyway."""
        steps = self.config.train.eval_steps
        is_new = self.step != self.evaluated_step
        return steps is not None and is_new and self.step % steps == 0 and self.step < self._epoch_end

    def update(self, losses: Tensor, *, num_rows: int, num_targets: int) -> None:
        """One step of the optimizer on the gradients there are. `losses`: sums over the batch's targets."""
        self.meter.add(losses, num_rows, num_targets)
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
        """Read the losses back; a loss that is NaN or infinite ends this member, and no other."""
        losses = self.meter.read()
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None or not self.is_training:
            return
        step = self.step - len(losses) + bad + 1
        if step == 1:
            cause = "nothing was learned yet, so the base's own weights or its precision are at fault"
        else:
            rate = learning_rate(self.config.train, step - 1, self.total_steps)
            cause = (
                f"the likely cause is the learning rate ({rate:.2g}): lower train.lr or train.max_grad_norm"
            )
        self.end("failed", f"the loss was {losses[bad]} at step {step}; {cause}")

    def epoch_seconds(self) -> float:
        return time.perf_counter() - self._started

    def end_epoch(self, values: Mapping[str, float], seconds: float) -> None:
        """Log the epoch, keep its weights when it is the best so far, and stop when it is time to."""
        values = {
            **values,
            "system/epoch_seconds": seconds,
            "system/examples_per_second": self.meter.rows / seconds,
        }
        self.history.append(values)
        self.log.metrics(values, step=self.epoch)
        best = self.evaluated(values)
        metric, patience = self.config.best_metric, self.config.train.early_stopping_epochs
        if self.epoch == self.config.train.epochs or self.step == self.total_steps:
            self.end("finished")
        elif metric is not None and patience is not None and self.epoch - best.since >= patience:
            self.end("finished", f"no better {metric} for {counted(patience, 'epoch')}")
        else:
            self.epoch += 1
            self.meter = Meter()
            self._batches = self._start_epoch()

    def evaluated(self, values: Mapping[str, float], seconds: float = 0.0) -> Best:
        """Keep the weights when these scores are the best so far; returns what is best now.

        `seconds`: what the evaluation took of the time of an epoch that goes on.
        """
        self._started += seconds
        self.evaluated_step = self.step
        if self.config.train.eval_steps is not None:
            scores = {f"eval/{name}": value for name, value in values.items() if "/" not in name}
            self.log.metrics({**scores, "eval/loss": values["validation/loss"]}, step=self.step)
        metric, best = self.config.best_metric, self.best
        since = self.epoch
        is_kept = metric is None or best is None
        if metric is not None and best is not None:
            value, kept = values.get(metric, math.nan), best.values.get(metric, math.nan)
            is_kept = is_better(metric, value, kept)
            if not is_kept and value == kept:
                loss, kept_loss = values["validation/loss"], best.values["validation/loss"]
                is_kept, since = is_better("validation/loss", loss, kept_loss), best.since
        if is_kept or best is None:
            best = self.best = Best(self.epoch, self.step, values, since)
            weights.save(self.network, self.name, self.folder)
        return best

    def end(self, status: Status, reason: str = "") -> None:
        self.status, self.reason = status, reason
        if reason:
            self.log.notice(f"{self.config.exp_id}: {status} in epoch {self.epoch}: {reason}")

    def restore_best(self) -> None:
        """The weights of the best epoch back into the network."""
        weights.load(self.network, self.name, self.folder)

    def go_on_from(self, step: int, epoch: int, epoch_seconds: float) -> None:
        """Take the batches that come after `step` of them; the epoch has lasted so long already."""
        self.step, self.epoch = step, epoch
        self._batches = islice(self._start_epoch(), step - (epoch - 1) * self.epoch_steps, None)
        self._started -= epoch_seconds

    def _start_epoch(self) -> Iterator[Rows]:
        self._started = time.perf_counter()
        train = self.config.train
        return iter(epoch_batches(self.num_rows, train.batch_size, train.seed, self.epoch))
