"""How runs are called: what was changed tells them apart in a list."""

from __future__ import annotations

from pathlib import Path

import pytest

from loratrack.config.layers import experiment_name
from loratrack.experiments.recording import run_name

NAMES = {
    (): "exp_v1",
    ("model.lora.rank=8", "train.epochs = 1"): "exp_v1 rank=8 epochs=1",
    ("exp_id=other", "description=a b", "register=false"): "exp_v1",
    ("model.arch=/bases/tiny", "train.loss_weight=[1, 0]"): "exp_v1 arch=tiny loss_weight=[1, 0]",
    ("train.lr=1e-3", "train.lr=2e-3"): "exp_v1 lr=2e-3",
    ("data.raw_data_path=s3://user:pass@host/train.csv",): "exp_v1 raw_data_path=train.csv",
    ("model.arch=https://user:pass@host/base",): "exp_v1 arch=https://***@host/base",
    ("data.raw_data_path=projects/a/data/" + 80 * "x",): "exp_v1 raw_data_path=" + 38 * "x" + "…",
}


@pytest.mark.parametrize(("changed", "name"), NAMES.items())
def test_a_run_is_called_by_what_was_changed(changed: tuple[str, ...], name: str) -> None:
    assert run_name("exp_v1", changed) == name


def test_the_experiment_is_that_of_the_project_unless_the_config_names_one(tmp_path: Path) -> None:
    folder = tmp_path / "projects" / "clinc" / "more"
    folder.mkdir(parents=True)
    (folder / "parent.yaml").write_text("project: shop")
    (folder / "plain.yaml").write_text("exp_id: a")
    (folder / "child.yaml").write_text("base_config: parent.yaml")
    assert experiment_name(folder / "plain.yaml") == "clinc"
    assert experiment_name(folder / "child.yaml") == "shop"
    assert experiment_name(folder / "child.yaml", ["train.epochs=1; experiment=mine"]) == "mine"
