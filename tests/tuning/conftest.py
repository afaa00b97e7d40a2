"""A sweep over a config of two tasks, and a study of it in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loratrack.config.sweep import SweepConfig
from loratrack.tuning.study import Search

LABELS = {"risk": ["low", "mid", "high"], "taken": ["yes", "no"]}
SPACE: dict[str, Any] = {
    "model.lora.rank": {"choice": ["2", "4", "8"]},
    "model.lora.alpha": {"of": "model.lora.rank", "times": ["1", "2"]},
    "train.lr": {"log": ["1e-4", "1e-2"]},
    "train.loss_weight": "simplex",
    "model.lora.dropout": {"uniform": ["0.0", "0.2"]},
}


def config_of(
    space: dict[str, Any] | None = None, *, run: dict[str, Any] | None = None, **sweep: Any
) -> SweepConfig:
    settings = {
        "exp_id": "tiny",
        "task_type": "double_cls",
        "data": {"raw_data_path": "/data/rows.csv", "label_subset": LABELS},
        "train": {"epochs": 3},
        **(run or {}),
        "sweep": {"name": "tiny-sweep", "trials": 6, "space": SPACE if space is None else space, **sweep},
    }
    return SweepConfig.model_validate(settings)


@pytest.fixture
def new_search(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Opens the same study whenever it is called: as another process, or as a continuation would."""
    opened: list[Search] = []

    def open_study(config: SweepConfig, notices: list[str] | None = None, **options: Any) -> Search:
        notice = (notices if notices is not None else []).append
        opened.append(Search(config, f"sqlite:///{tmp_path}/optuna.db", tmp_path / "lock", notice, **options))
        return opened[-1]

    yield open_study
    for search in opened:
        search.close()


@pytest.fixture(scope="session")
def sweep_config() -> Callable[..., SweepConfig]:
    return config_of
