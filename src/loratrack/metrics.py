"""Which way a metric is better: the one table that engine, sweep, index and registry read.

is_lower_better("validation/loss")       # True; so are best_perplexity, train/loss_intent
is_better("avg_f1", 0.93, 0.91)          # True
"""

from __future__ import annotations

import math
import re

LOWER_IS_BETTER = re.compile(r"(^|[/_])(loss|perplexity|epoch_seconds|trainable_parameters)($|[/_])")
SCORE = re.compile(r"([\w-]+_)?(accuracy|f1|f1_micro)")
"""Metrics between 0 and 1 that say how good a model is; the group is the task's name and an underscore."""

MAJORITY, BASELINE = "majority_", "baseline_"
"""How the metrics begin that a model must beat: `baseline_f1`, and `baseline_test_f1` on the test set."""


MAIN_SCORES = ("best_avg_f1", "best_f1", "test_avg_f1", "test_f1")
"""Those that lists of runs and versions show."""


def is_lower_better(metric: str) -> bool:
    return LOWER_IS_BETTER.search(metric) is not None


def is_better(metric: str, value: float, other: float) -> bool:
    """Whether `value` is better than `other`; NaN is worse than everything."""
    if math.isnan(value) or math.isnan(other):
        return not math.isnan(value)
    return value < other if is_lower_better(metric) else value > other
