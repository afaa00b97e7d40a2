"""The order of the data and of the learning rates: pure functions of seed, epoch and step."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from loratrack.config.train import Train


def epoch_batches(num_rows: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of one epoch; the last one may be smaller. Any of them can be had without the others."""
    order = np.random.default_rng([seed, epoch]).permutation(num_rows)
    return [order[start : start + batch_size] for start in range(0, num_rows, batch_size)]


def micro_batches(rows: NDArray[np.int64], size: int | None) -> list[NDArray[np.int64]]:
    if size is None or len(rows) <= size:
        return [rows]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def learning_rate(train: Train, step: int, total_steps: int) -> float:
    """The rate of the step with this number (from 0): warm-up, then the schedule's descent to 0."""
    peak = train.peak_rate
    warmup_steps = math.ceil(train.warmup_share * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    match train.schedule:
        case "linear":
            return peak * (1 - share)
        case "cosine":
            return peak * (1 + math.cos(math.pi * share)) / 2
        case "constant":
            return peak
