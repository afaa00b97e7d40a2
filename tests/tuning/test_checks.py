"""What a person reads about a sweep that cannot be: word for word, all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from loratrack.config import load
from loratrack.config.sweep import Choice, SweepConfig, load_sweep
from loratrack.errors import ConfigError
from loratrack.tuning.checks import check

SHAPES = (
    "must be one of {choice: [a, b]}, {log: [low, high]}, {uniform: [low, high]}, {int: [low, high]},"
    " {of: another.setting, times: [1, 2]} or simplex"
)
METRICS = (
    "risk_accuracy, risk_f1, taken_accuracy, taken_f1, avg_accuracy, avg_f1, validation/loss,"
    " trainable_parameters"
)


@pytest.fixture
def problems(tmp_path: Path) -> Callable[..., list[str]]:
    """All that is reported about a sweep, by the loader or by the check."""

    def report(space: Any, run: dict[str, Any] | None = None, **sweep: Any) -> list[str]:
        labels = {"risk": ["low", "mid", "high"], "taken": ["yes", "no"]}
        content = {
            "exp_id": "tiny",
            "task_type": "double_cls",
            "data": {"raw_data_path": "rows.csv", "label_subset": labels},
            **(run or {}),
            "sweep": {"name": "s", "trials": 4, "space": space, **sweep},
        }
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            check(load_sweep(file), str(file))
        first, *lines = str(caught.value).splitlines()
        assert first == f"{file}: {len(lines)} invalid setting{'s' if len(lines) > 1 else ''}"
        return [line.removeprefix("  ") for line in lines]

    return report


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({"train.lr": {"choice": []}}, "train.lr.choice: must list at least one value, got []"),
        ({"train.lr": {"choice": [1, 1]}}, "train.lr.choice: listed more than once: 1"),
        (
            {"train.lr": {"uniform": [0.2, 0.1]}},
            "train.lr.uniform: the low end must be below the high end, got [0.2, 0.1]",
        ),
        ({"train.lr": {"log": [0, 1]}}, "train.lr.log: a log scale has no 0; the low end must be above 0"),
        (
            {"train.epochs": {"int": [1.5, 3]}},
            "train.epochs.int: both ends must be whole numbers, got [1.5, 3]",
        ),
        ({"train.lr": "often"}, f"train.lr: {SHAPES}, got 'often'"),
        (
            {"train.lerning_rate": {"log": [0.1, 1]}},
            "train.lerning_rate: no such setting",
        ),
        (
            {"model.lora.rnk": {"choice": [1, 2]}},
            "model.lora.rnk: no such setting; did you mean model.lora.rank?",
        ),
        (
            {"lr": {"log": [0.1, 1]}},
            "lr: no such setting; did you mean train.lr?",
        ),
        (
            {"model.lora.alpha": {"of": "model.lora.rang", "times": 2}},
            "model.lora.rang: no such setting; did you mean model.lora.rank? (in model.lora.alpha)",
        ),
        (
            {"train.weight_decay": {"of": "train.lr", "times": 2}},
            "train.weight_decay.of: must be a setting that is a number, got train.lr, which is 'auto';"
            " give it a number, or vary it too",
        ),
        (
            {"train.optimizer": {"choice": ["adamw", "sgd"]}},
            "train.optimizer: with 'sgd': train: lr auto has no rate for optimizer sgd; write a number, such"
            " as lr: 0.1",
        ),
        (
            {"exp_id": {"choice": ["a", "b"]}},
            "exp_id: must be a setting that changes the training, got 'exp_id'",
        ),
        (
            {"train.lr": "simplex"},
            "train.lr: simplex is for train.loss_weight of two tasks or more; the tasks are risk, taken",
        ),
        (
            {"model.lora.rank": {"choice": [4, 0]}},
            "model.lora.rank: with '0': model.lora.rank: must be greater than 0, got '0'",
        ),
        (
            {"model.lora.dropout": {"uniform": [0.5, 1.5]}},
            "model.lora.dropout: with 1.5: model.lora.dropout: must be less than 1, got 1.5",
        ),
    ],
)
def test_a_space_that_cannot_be(problems: Callable[..., list[str]], space: Any, problem: str) -> None:
    assert problems(space) == [f"sweep.space.{problem}"]


SPACE = {"train.lr": {"log": [0.001, 0.1]}}


def test_a_rate_that_is_varied_is_a_number_for_what_refuses_auto() -> None:
    space = {"train.optimizer": {"choice": ["adamw", "sgd"]}, **SPACE}
    sweep = {"name": "s", "trials": 4, "metric": "f1", "space": space}
    settings = {"exp_id": "tiny", "data": {"raw_data_path": "rows.csv"}, "sweep": sweep}
    check(SweepConfig.model_validate(settings), "sweep.yaml")


@pytest.mark.parametrize(
    ("sweep", "problem"),
    [
        ({"metric": "avg_f2"}, f"sweep.metric: must be one of {METRICS}, got 'avg_f2'"),
        (
            {"metric": ["risk_f1", "taken_f1"], "pruner": "hyperband"},
            "sweep.pruner: Optuna cannot prune by 2 objectives (risk_f1, taken_f1), got 'hyperband';"
            " write pruner: none, or name one metric",
        ),
        (
            {"metric": ["risk_f1", "taken_f1"], "direction": "maximize"},
            "sweep.direction: needs one for each of 2 metrics, got 1: maximize",
        ),
        (
            {"sampler": "grid"},
            "sweep.sampler: a grid needs choice, int or times for every setting, got none for train.lr",
        ),
        (
            {"min_epochs": 3},
            "sweep.min_epochs (3) must be below train.epochs (3), or nothing is ever pruned; lower it,"
            " or write pruner: none",
        ),
        ({"trials": None}, "sweep: must end: give trials, max_hours or both"),
        ({"trails": 3}, "sweep.trails: no such setting; did you mean sweep.trials?"),
        (
            {"name": "a.b"},
            "sweep.name: must be at most 180 letters, digits, `_` and `-`, the first no `-`, got 'a.b'",
        ),
    ],
)
def test_a_sweep_that_cannot_be(problems: Callable[..., list[str]], sweep: Any, problem: str) -> None:
    assert problems(SPACE, **sweep) == [problem]


def test_settings_that_depend_on_each_other_in_a_circle(problems: Callable[..., list[str]]) -> None:
    circle = {
        "model.lora.alpha": {"of": "model.lora.rank", "times": 2},
        "model.lora.rank": {"choice": [2, 4], "when": {"model.lora.alpha": 4}},
    }
    (problem,) = problems(circle)
    assert problem.startswith("sweep.space: settings must not depend on each other in a circle: model.lora.")


def test_all_problems_are_reported_at_once(problems: Callable[..., list[str]]) -> None:
    report = problems(
        {"train.lr": {"log": [0, 1]}, "train.epochs": {"int": [3, 1]}}, run={"typ": 1}, metrik="f1"
    )
    assert [line.split(":")[0] for line in report] == [
        "sweep.space.train.lr.log",
        "sweep.space.train.epochs.int",
        "sweep.metrik",
        "typ",
    ]


def test_a_run_is_no_sweep(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("exp_id: one\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_sweep(file)
    assert str(caught.value) == (
        f"{file}: must have a `sweep` section with name, trials, metric and space;"
        " to train it once: loratrack run"
    )


def test_with_one_task_the_average_is_its_own_score(tmp_path: Path) -> None:
    """The default metric fits any number of tasks, as that of save_strategy does."""
    file = tmp_path / "sweep.yaml"
    sweep: dict[str, Any] = {"name": "s", "trials": 1, "space": {"train.lr": {"log": [1e-4, 1e-2]}}}
    for metric, meant in ((None, "f1"), ("avg_accuracy", "accuracy"), (["avg_f1", "validation/loss"], None)):
        sweep |= {} if metric is None else {"metric": metric}
        content = {"data": {"raw_data_path": "a.csv"}, "sweep": sweep}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        config = load_sweep(file)
        check(config, str(file))
        assert config.sweep.metric == (meant or ("f1", "validation/loss"))


def test_a_sweep_is_no_run(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("exp_id: one\ndata: {raw_data_path: a.csv}\nsweep: {name: s}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file}: 1 invalid setting\n  sweep: this is a sweep config; run it with: loratrack sweep {file}"
    )


def test_the_shipped_sweep_can_be() -> None:
    file = Path(__file__).parents[2] / "projects/clinc/sweep.yaml"
    config = load_sweep(file)
    check(config, str(file))
    assert list(config.sweep.space)[:2] == ["model.lora.rank", "model.lora.alpha"]


def test_paths_among_the_choices_start_at_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    content = {
        "data": {"raw_data_path": "a.csv"},
        "sweep": {"name": "s", "trials": 1, "space": {"data.raw_data_path": {"choice": ["a.csv", "b.csv"]}}},
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    config: SweepConfig = load_sweep(file)
    choices = config.sweep.space["data.raw_data_path"]
    assert isinstance(choices, Choice)
    assert choices.choice == (f"{tmp_path}/a.csv", f"{tmp_path}/b.csv")
    assert config.exp_id == "s"


def test_the_frozen_copy_of_a_sweep_is_the_same_sweep(tmp_path: Path, sweep_config: Any) -> None:
    from loratrack.config import files

    config = sweep_config()
    files.save(config, tmp_path / "copy.yaml")
    assert load_sweep(tmp_path / "copy.yaml") == config


def test_a_grid_ends(problems: Callable[..., list[str]]) -> None:
    space = {"train.seed": {"int": [0, 99_999]}, "train.epochs": {"choice": [1, 2]}}
    assert problems(space, sampler="grid") == [
        "sweep.space: a grid has at most 100,000 points, got 200,000; list fewer values,"
        " or take sampler: random"
    ]
