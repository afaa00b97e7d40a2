"""A config and its frozen copy: the copy alone gives the run again, wherever the project lies."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loratrack.config import RunConfig, flat, load, plain, project_root, save, sha256
from loratrack.config.files import dump
from loratrack.errors import ConfigError

texts = st.text(max_size=12)
names = st.from_regex(r"\w[\w-]{0,5}", fullmatch=True).filter(
    lambda name: name not in ("avg", "loss") and not name.startswith(("best_", "test_"))
)
labels = st.lists(texts.filter(bool), min_size=2, max_size=4, unique=True)
positive = st.floats(min_value=0, max_value=1e6, exclude_min=True)


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    kind = draw(st.sampled_from(["single_cls", "double_cls", "multi_cls"]))
    tasks = draw(st.lists(names, min_size=2, max_size=2 if kind == "double_cls" else 4, unique=True))
    subset: Any = {task: draw(labels | st.just("all")) for task in tasks}
    if kind == "single_cls":
        tasks, subset = ["label"], draw(st.none() | st.just("all") | labels)
    weights = [draw(positive) for _ in tasks]
    data = {
        "raw_data_path": draw(st.sampled_from(["/a/b.csv", "/data/风险 1.csv"])),
        "label_subset": subset,
        "label_columns": {task: f"column {number}" for number, task in enumerate(tasks)},
        "text_column": draw(
            st.just("text ")
            | st.lists(
                texts.map("text {}".format), min_size=1, max_size=2, unique=True
            )  # never a task's name
        ),
        "data_process_version": draw(texts),
    }
    return RunConfig.model_validate(
        {
            "exp_id": draw(st.from_regex(r"\w[\w.-]{0,9}", fullmatch=True)),
            "description": draw(texts),
            "base_config": draw(st.none() | texts),
            "task_type": kind,
            "register": draw(st.booleans() | st.just("007") | st.just("null")),
            "data": data,
            "model": {
                "use_lora": draw(st.booleans()),
                "lora": {"rank": draw(st.integers(1, 99)), "alpha": draw(positive)},
            },
            "train": {
                "lr": draw(positive),
                "loss_weight": draw(st.sampled_from([None, weights, dict(zip(tasks, weights, strict=True))])),
                "max_grad_norm": draw(st.none() | positive),
                "seed": draw(st.integers(0, 2**32 - 1)),
            },
        }
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project, which is the current folder."""
    folder = tmp_path / "first 项目"
    (folder / "projects/a").mkdir(parents=True)
    (folder / "MLproject").write_text("name: loratrack\n")
    (folder / "projects/t.yaml").write_text("model: {lora: {r: 4}}\n")
    (folder / "projects/a/x.yaml").write_text(
        "exp_id: e\nbase_config: t.yaml\ndata: {raw_data_path: d.csv}\nmodel: {arch: ../../bases/b}\n"
    )
    monkeypatch.chdir(folder)
    return folder


@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=configs())
def test_a_saved_config_loads_to_itself(config: RunConfig, tmp_path: Path) -> None:
    save(config, tmp_path / "config_copy.yaml")
    again = load(tmp_path / "config_copy.yaml")
    assert again == config
    assert sha256(again) == sha256(config)
    assert dump(again) == dump(config)


@pytest.mark.parametrize(
    "text", ["a\x85b", "a\u2028b", "\ta\r\nb ", "'\"\\", "007", "~", "=", "- a: b # c", "\ufeff"]
)
def test_hard_texts_are_saved_exactly(text: str, tmp_path: Path) -> None:
    data = {"raw_data_path": "/x.csv", "label_subset": [text, "other"]}
    config = RunConfig.model_validate({"exp_id": "e", "description": text, "data": data})
    save(config, tmp_path / "config_copy.yaml")
    assert load(tmp_path / "config_copy.yaml") == config


@given(config=configs())
def test_plain_settings_make_the_config_again(config: RunConfig) -> None:
    assert RunConfig.model_validate(plain(config)) == config


nested = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers() | st.lists(st.integers())),
    lambda below: st.dictionaries(st.sampled_from("abc"), below | st.integers()),
)


@given(nested)
def test_flat_keeps_every_setting_under_its_path(settings: dict[str, Any]) -> None:
    def at(path: str) -> Any:
        value: Any = settings
        for key in path.split("."):
            value = value[key]
        return value

    def num_leaves(value: Any) -> int:
        return sum(map(num_leaves, value.values())) if isinstance(value, dict) and value else 1

    dotted = flat(settings)
    assert all(at(path) == value for path, value in dotted.items())
    assert len(dotted) == (num_leaves(settings) if settings else 0)


@given(nested)
def test_flat_of_flat_is_flat(settings: dict[str, Any]) -> None:
    assert flat(flat(settings)) == flat(settings)


def test_flat_settings_have_the_names_used_in_files(project: Path) -> None:
    settings = flat(plain(load("projects/a/x.yaml", ["register=my-model"])))
    assert settings["model.lora.rank"] == 4
    assert settings["register"] == "my-model"
    assert settings["data.raw_data_path"] == f"{project}/projects/a/d.csv"
    assert all(
        "." not in name or name.split(".")[0] in ("data", "model", "train", "resources") for name in settings
    )


def test_the_frozen_copy_is_read_only_and_replaces_another(project: Path) -> None:
    copy = project / "config_copy.yaml"
    save(load("projects/a/x.yaml"), copy)
    save(load("projects/a/x.yaml", ["train.epochs=9"]), copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o444
    assert load(copy).train.epochs == 9
    assert sorted(path.name for path in project.iterdir()) == ["MLproject", "config_copy.yaml", "projects"]


def test_a_default_is_the_same_number_in_the_frozen_copy(tmp_path: Path) -> None:
    """32 and 32.0 are equal, and yet other bytes in a file that is written from them."""
    config = RunConfig.model_validate({"exp_id": "plain", "data": {"raw_data_path": "/a/b.csv"}})
    save(config, tmp_path / "copy.yaml")
    assert repr(load(tmp_path / "copy.yaml")) == repr(config)


def test_the_frozen_copy_needs_no_parents(project: Path) -> None:
    config = load("projects/a/x.yaml", ["train.lr=3e-4"])
    save(config, project / "config_copy.yaml")
    shutil.rmtree(project / "projects")
    assert load("config_copy.yaml") == config
    assert config.base_config == "t.yaml"


def test_the_frozen_copy_holds_no_path_of_this_machine(project: Path) -> None:
    settings = yaml.safe_load(dump(load("projects/a/x.yaml")))
    assert settings["data"]["raw_data_path"] == "./projects/a/d.csv"
    assert settings["model"]["arch"] == "./bases/b"


def test_paths_outside_of_the_project_stay_whole(project: Path) -> None:
    settings = yaml.safe_load(dump(load("projects/a/x.yaml", ["data.test_path=/elsewhere/t.csv"])))
    assert settings["data"]["test_path"] == "/elsewhere/t.csv"


def test_a_moved_project_finds_its_data_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("projects/a/x.yaml")
    (project / "mlruns/1").mkdir(parents=True)
    save(config, project / "mlruns/1/config_copy.yaml")
    moved = tmp_path / "second"
    before = sha256(config)
    project.rename(moved)
    monkeypatch.chdir(tmp_path)
    again = load(moved / "mlruns/1/config_copy.yaml")
    assert again.data.raw_data_path == f"{moved}/projects/a/d.csv"
    assert again.model.arch == f"{moved}/bases/b"
    assert sha256(again) == before


def test_a_downloaded_copy_starts_at_the_current_project(project: Path, tmp_path: Path) -> None:
    config = load("projects/a/x.yaml")
    (tmp_path / "downloads").mkdir()
    save(config, tmp_path / "downloads/config_copy.yaml")
    assert load(tmp_path / "downloads/config_copy.yaml") == config


def test_sha256_does_not_depend_on_the_current_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = sha256(load("projects/a/x.yaml"))
    monkeypatch.chdir("/")
    assert sha256(load(project / "projects/a/x.yaml")) == inside


def test_sha256_is_the_same_in_another_project(project: Path) -> None:
    config = load("projects/a/x.yaml", ["project=risk"])
    assert config.project == "risk"
    assert sha256(config) == sha256(load("projects/a/x.yaml"))


def test_sha256_tells_one_setting_from_another(project: Path) -> None:
    assert sha256(load("projects/a/x.yaml")) != sha256(load("projects/a/x.yaml", ["train.seed=43"]))


def test_a_child_of_a_frozen_copy(project: Path) -> None:
    save(load("projects/a/x.yaml"), project / "projects/a/copy.yaml")
    (project / "projects/a/child.yaml").write_text(
        "exp_id: child\nbase_config: copy.yaml\ntrain: {epochs: 9}\n"
    )
    child = load("projects/a/child.yaml")
    assert (child.exp_id, child.model.lora.rank, child.train.epochs) == ("child", 4, 9)
    assert child.data.raw_data_path == f"{project}/projects/a/d.csv"


def test_project_root_is_the_nearest_folder_with_an_mlproject(project: Path) -> None:
    assert project_root(project / "projects/a") == project
    assert project_root(project.parent) is None


def test_a_config_that_is_not_valid_is_refused_with_its_name(project: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^projects/t\.yaml: 1 invalid setting\n  exp_id, data: must be given; a file"
    ):
        load("projects/t.yaml")


def test_the_room_opens_without_heavy_libraries() -> None:
    program = (
        "import sys, loratrack.config;"
        "heavy = ('torch', 'mlflow', 'pandas', 'numpy', 'transformers');"
        "print([name for name in heavy if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


def test_how_often_is_saved_makes_no_other_config(project: Path) -> None:
    """A run may go on with other minutes, and has the hash that it had before there were any."""
    often = load("projects/a/x.yaml", ["train.checkpoint_minutes=1"])
    assert sha256(often) == sha256(load("projects/a/x.yaml", ["train.checkpoint_minutes=null"]))
