"""One table says which way a metric is better."""

from __future__ import annotations

import math

import pytest

from loratrack.metrics import is_better, is_lower_better


@pytest.mark.parametrize(
    "metric",
    ["validation/loss", "train/loss_intent", "perplexity", "best_perplexity", "test_perplexity",
     "best_validation/loss", "system/epoch_seconds", "trainable_parameters"],
)  # fmt: skip
def test_lower_is_better(metric: str) -> None:
    assert is_lower_better(metric)
    assert is_better(metric, 1.0, 2.0)
    assert not is_better(metric, 2.0, 1.0)


@pytest.mark.parametrize(
    "metric",
    [
        "accuracy",
        "avg_f1",
        "token_accuracy",
        "train/token_accuracy",
        "best_token_accuracy",
        "test_intent_f1",
        "gloss_f1",
        "system/examples_per_second",
    ],
)
def test_higher_is_better(metric: str) -> None:
    assert not is_lower_better(metric)
    assert is_better(metric, 2.0, 1.0)


@pytest.mark.parametrize("metric", ["f1", "validation/loss"])
def test_nan_is_worse_than_everything(metric: str) -> None:
    assert is_better(metric, 0.5, math.nan)
    assert not is_better(metric, math.nan, 0.5)
    assert not is_better(metric, math.nan, math.nan)
