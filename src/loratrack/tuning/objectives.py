"""What a sweep can optimise, and which way is better."""

from __future__ import annotations

from typing import Literal

from loratrack.config import RunConfig
from loratrack.config.sweep import Sweep
from loratrack.metrics import is_lower_better

OTHER_METRICS = ("validation/loss", "trainable_parameters")
"""What a sweep can optimise beside the scores."""


def known_metrics(config: RunConfig) -> tuple[str, ...]:
    return (*config.metric_names, *OTHER_METRICS)


def directions(sweep: Sweep) -> tuple[Literal["maximize", "minimize"], ...]:
    """One for each metric."""
    if sweep.direction is None:
        return tuple("minimize" if is_lower_better(name) else "maximize" for name in sweep.metrics)
    return (sweep.direction,) if isinstance(sweep.direction, str) else sweep.direction


def sign(sweep: Sweep) -> int:
    """1 where more of the first metric is better, else -1."""
    return 1 if directions(sweep)[0] == "maximize" else -1


def pruner_name(sweep: Sweep) -> str:
    if sweep.pruner != "auto":
        return sweep.pruner
    # trainable_parameters is the same after every epoch: nothing to prune by
    return "none" if len(sweep.metrics) > 1 or sweep.metrics[0] == "trainable_parameters" else "hyperband"
