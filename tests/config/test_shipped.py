"""The projects we ship: every config loads, its files are there, and the synthetic data can be made again."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from loratrack.config import RunConfig, load
from loratrack.config.schema import data_paths
from loratrack.errors import ConfigError

PROJECTS = Path(__file__).parents[2] / "projects"
TEMPLATES = sorted((PROJECTS / "templates").glob("*.yaml"))
SHIPPED = sorted(set(PROJECTS.rglob("*.yaml")) - set(TEMPLATES))


def is_run(file: Path) -> bool:
    """Sweeps and chains have schemas of their own."""
    return "exp_id" in yaml.safe_load(file.read_text(encoding="utf-8"))


RUNS = [file for file in SHIPPED if is_run(file)]


def header(file: Path) -> list[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        return next(csv.reader(lines))


def test_there_are_projects_and_templates() -> None:
    assert len(RUNS) >= 5
    assert len(TEMPLATES) >= 3


@pytest.mark.parametrize("file", RUNS, ids=lambda file: str(file.relative_to(PROJECTS)))
def test_a_shipped_config_loads_and_its_files_are_there(file: Path) -> None:
    config = load(file)
    assert all(path.is_file() for path in data_paths(config).values())
    columns = {*config.text_columns, *config.label_columns.values()}
    tables = [path for path in data_paths(config).values() if path.suffix == ".csv"]
    assert tables
    assert all(columns <= set(header(table)) for table in tables)


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_a_template_is_a_parent(file: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(
        f"exp_id: child\nbase_config: {file}\ndata: {{raw_data_path: x.csv}}\n", encoding="utf-8"
    )
    assert load(child).model.arch in ("minilm", "bert-base-chinese", "nghuyong/ernie-3.0-base-zh")


def test_experiments_have_names_of_their_own() -> None:
    names = [load(file).exp_id for file in RUNS]
    assert sorted(names) == sorted(set(names))


def test_the_example_of_two_labels_says_what_its_user_wrote() -> None:
    config = load(PROJECTS / "risk/exp_v4_double_label.yaml")
    assert config.exp_id == "exp_v4_double_label"
    assert config.subsets == {"risk_level": ("低风险", "中风险", "高风险"), "is_adopt": ("采纳", "不采纳")}
    assert (config.train.epochs, config.train.loss_weight) == (8, (0.6, 0.4))
    assert config.train.lr == "auto", "2e-5 is for whole networks: with LoRA it learned nothing"
    assert (config.model.arch, config.model.lora.target_modules) == ("bert-base-chinese", ("query", "value"))
    assert Path(config.data.raw_data_path) == PROJECTS / "risk/data/raw/train_double_label.csv"


def test_a_third_label_is_one_more_key() -> None:
    child: RunConfig = load(PROJECTS / "risk/exp_v5_three_labels.yaml")
    assert child.tasks == ("risk_level", "is_adopt", "channel")
    assert child.label_columns["channel"] == "channel"


def test_adding_a_label_to_two_says_what_else_to_change() -> None:
    with pytest.raises(ConfigError) as caught:
        load(PROJECTS / "risk/exp_v4_double_label.yaml", ["data.label_subset.channel=all"])
    assert str(caught.value).split("\n")[1:] == [
        "  data.label_subset: task_type double_cls needs exactly 2 tasks, got 3:"
        " risk_level, is_adopt, channel; task_type: multi_cls takes any number",
        "  train.loss_weight: needs one weight for each of 3 tasks: risk_level, is_adopt, channel,"
        " got 2: [0.6, 0.4]",
    ]


def test_the_synthetic_data_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(PROJECTS / "risk/make_data.py"), str(tmp_path)], check=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 3
    for name in made:
        assert (tmp_path / name).read_bytes() == (PROJECTS / "risk/data" / name).read_bytes(), name


def test_committed_data_is_small() -> None:
    assert sum(file.stat().st_size for file in PROJECTS.rglob("*") if file.is_file()) < 3_000_000
