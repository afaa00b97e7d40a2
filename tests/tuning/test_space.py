"""Spaces: every sampled config is valid, weights sum to 1, and a setting appears only where it applies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.config.sweep import SweepConfig
from loratrack.tuning import space
from loratrack.tuning.cohorts import group

Configs = Callable[..., SweepConfig]

TASKS = ["risk", "taken", "channel", "tone"]
KINDS: dict[str, Any] = {
    "model.lora.rank": {"choice": ["2", "4", "8", "16"]},
    "model.lora.alpha": {"of": "model.lora.rank", "times": ["0.5", "2"]},
    "model.lora.dropout": {"uniform": ["0.0", "0.2"]},
    "model.lora.target_modules": {"choice": ["auto", ["query", "value"], "all-linear"]},
    "train.lr": {"log": ["1e-5", "1e-1"]},
    "train.epochs": {"int": ["1", "9"]},
    "train.batch_size": {"choice": ["8", "16"]},
    "train.schedule": {"choice": ["linear", "cosine"]},
    "train.early_stopping_epochs": {"choice": [None, "2"]},
    "train.loss_weight": "simplex",
    "train.class_weight": {"choice": [None, "balanced", {"risk": {"high": "3"}}]},
    "train.label_smoothing": {"uniform": ["0", "0.2"]},
    "train.focal_gamma": {"choice": ["0", "2"]},
    "train.warmup_share": {"uniform": ["0", "0.3"], "when": {"train.schedule": "cosine"}},
}


class Drawn:
    """A trial whose values hypothesis draws."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._note(name, st.sampled_from(choices))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._note(name, st.floats(low, high)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self._note(name, st.integers(low, high)))

    def _note(self, name: str, values: st.SearchStrategy[Any]) -> Any:
        self.params[name] = self.data.draw(values)
        return self.params[name]


def config_of_tasks(make: Configs, tasks: list[str]) -> SweepConfig:
    labels = {task: ["a", "b"] for task in tasks}
    run = {"task_type": "multi_cls", "data": {"raw_data_path": "/rows.csv", "label_subset": labels}}
    return make(KINDS, run=run)


@given(data=st.data(), count=st.integers(2, 4))
def test_every_sampled_config_is_valid(sweep_config: Configs, data: st.DataObject, count: int) -> None:
    config = config_of_tasks(sweep_config, TASKS[:count])
    trial = Drawn(data)
    values = space.sample(trial, config)
    run = space.trial_config(config, 7, values)
    weights = run.loss_weights
    assert list(weights) == TASKS[:count]
    assert sum(weights.values()) == pytest.approx(1, abs=1e-9)
    assert all(0 <= weight <= 1 for weight in weights.values())
    assert run.exp_id == "tiny-sweep-7"
    assert run.model.lora.alpha == run.model.lora.rank * trial.params["model.lora.alpha.times"]
    assert ("train.warmup_share" in values) == (run.train.schedule == "cosine")
    assert space.replay(config, trial.params) == values


def test_weights_are_spread_evenly(sweep_config: Configs) -> None:
    config = config_of_tasks(sweep_config, TASKS[:3])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    weights = [list(space.sample(study.ask(), config)["train.loss_weight"].values()) for _ in range(600)]
    means = [sum(column) / len(column) for column in zip(*weights, strict=True)]
    assert means == pytest.approx([1 / 3] * 3, abs=0.04)


def test_a_choice_keeps_what_the_file_says(sweep_config: Configs) -> None:
    targets = ["auto", ["query", "value"]]
    config = sweep_config({"model.lora.target_modules": {"choice": targets}})
    trial = optuna.trial.FixedTrial({"model.lora.target_modules": '["query", "value"]'})
    values = space.sample(trial, config)
    assert values == {"model.lora.target_modules": ["query", "value"]}
    assert space.trial_config(config, 0, values).model.lora.target_modules == ("query", "value")


@pytest.mark.parametrize(("value", "applies"), [("true", True), ("True", True), ("false", False)])
def test_when_reads_the_settings_that_are_not_varied(
    sweep_config: Configs, value: str, applies: bool
) -> None:
    dropout = {"uniform": ["0.1", "0.2"], "when": {"model.use_lora": value}}
    config = sweep_config({"model.lora.dropout": dropout})
    trial = optuna.trial.FixedTrial({"model.lora.dropout": 0.15})
    assert space.sample(trial, config) == ({"model.lora.dropout": 0.15} if applies else {})


def test_a_grid_has_each_point_once(sweep_config: Configs) -> None:
    config = sweep_config(
        {
            "train.schedule": {"choice": ["linear", "cosine"]},
            "train.warmup_share": {"choice": ["0", "0.1", "0.2"], "when": {"train.schedule": "cosine"}},
            "model.lora.rank": {"choice": ["4", "8"]},
            "model.lora.alpha": {"of": "model.lora.rank", "times": "2"},
        },
        sampler="grid",
    )
    points = list(space.combinations(config))
    assert len(points) == 2 * (1 + 3)
    assert {"train.schedule": "linear", "model.lora.rank": 4} in points


def test_trials_whose_losses_differ_share_a_base(sweep_config: Configs) -> None:
    config = sweep_config(
        {
            "train.class_weight": {"choice": [None, "balanced", {"risk": {"high": "3"}}]},
            "train.label_smoothing": {"uniform": ["0", "0.2"]},
            "train.focal_gamma": {"choice": ["0", "2"]},
        }
    )
    drawn: list[dict[str, Any]] = [
        {"train.class_weight": None, "train.label_smoothing": 0.0, "train.focal_gamma": 0},
        {
            "train.class_weight": '{"risk": {"high": "3"}}',
            "train.label_smoothing": 0.1,
            "train.focal_gamma": 2,
        },
    ]
    trials = [space.trial_config(config, n, space.replay(config, params)) for n, params in enumerate(drawn)]
    assert [trial.class_weights for trial in trials] == [{}, {"risk": {"high": 3}}]
    assert [trial.train.label_smoothing for trial in trials] == [0, 0.1]
    assert [trial.train.focal_gamma for trial in trials] == [0, 2]
    assert group(trials[0]) == group(trials[1])
