"""The first trials of a sweep cover the space evenly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from loratrack.config.sweep import SweepConfig
from loratrack.tuning.samplers import first_trials, max_parallel
from loratrack.tuning.spread import value_at
from loratrack.tuning.study import Search

Configs = Callable[..., SweepConfig]
Opens = Callable[..., Search]
SPACE: dict[str, Any] = {
    "model.lora.rank": {"choice": [2, 4, 8, 16]},
    "model.lora.alpha": {"of": "model.lora.rank", "times": [1, 2]},
    "train.lr": {"log": [1e-4, 1e-2]},
    "train.batch_size": {"int": [1, 8]},
    "train.loss_weight": "simplex",
    "model.lora.dropout": {"uniform": [0.0, 0.2], "when": {"model.lora.rank": [8, 16]}},
}


def test_eight_open_trials_have_a_value_in_each_part_of_each_range(
    sweep_config: Configs, new_search: Opens
) -> None:
    search = new_search(sweep_config(SPACE, trials=16))
    settings = [trial.values for trial in (search.next() for _ in range(8)) if trial]
    shares = {
        "lr": [math.log10(each["train.lr"] / 1e-4) / 2 for each in settings],
        "weight": [each["train.loss_weight"]["risk"] for each in settings],
        "batch_size": [(each["train.batch_size"] - 1) / 8 for each in settings],
    }
    for name, values in shares.items():
        assert sorted(int(8 * value) for value in values) == list(range(8)), name
    assert set(Counter(each["model.lora.rank"] for each in settings).values()) == {2}
    factors = Counter(each["model.lora.alpha"] / each["model.lora.rank"] for each in settings)
    assert factors == {1.0: 4, 2.0: 4}
    assert {each["model.lora.rank"] for each in settings if "model.lora.dropout" in each} == {8, 16}


def test_another_seed_has_other_points(sweep_config: Configs, new_search: Opens) -> None:
    rates = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trial = new_search(sweep_config(SPACE, name=name, seed=seed)).next()
        assert trial is not None
        rates.append(trial.values["train.lr"])
    assert rates[0] == rates[1] != rates[2]


@pytest.mark.parametrize(
    ("sweep", "first", "most"),
    [
        ({"trials": 8}, 4, 4),
        ({"trials": 24}, 10, 12),
        ({"trials": 1}, 4, 1),
        ({"trials": None, "max_hours": 1}, 10, None),
        ({"trials": 24, "sampler": "random"}, 10, None),
    ],
)
def test_half_of_few_trials_are_left_to_those_that_learn(
    sweep_config: Configs, sweep: dict[str, Any], first: int, most: int | None
) -> None:
    config = sweep_config(**sweep)
    assert (first_trials(config), max_parallel(config)) == (first, most)


@given(st.floats(0, 1, exclude_max=True))
def test_each_share_is_a_value_of_the_range(share: float) -> None:
    for distribution in (
        FloatDistribution(1e-5, 0.3, log=True),
        FloatDistribution(-2.0, 5.0),
        IntDistribution(3, 7),
        CategoricalDistribution(("a", None, 3)),
    ):
        value = value_at(distribution, share)
        assert distribution._contains(distribution.to_internal_repr(value))
