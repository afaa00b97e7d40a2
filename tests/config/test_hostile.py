"""Whatever stands in a config file and behind --set gives a config or one message, and soon."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratrack.cli import main
from loratrack.config import RunConfig, load, save
from loratrack.config.sweep import load_sweep
from loratrack.errors import ConfigError, UserError
from loratrack.experiments.loading import load_run

GOOD = "exp_id: e\ndata: {raw_data_path: d.csv}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def message(text: str) -> str:
    """What is said of a file with this text."""
    Path("x.yaml").write_text(text)
    with pytest.raises(ConfigError) as fault:
        load("x.yaml")
    return str(fault.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("!!map [a]", "line 3, column 14: must be a mapping, got a sequence"),
        ("!!map x", "line 3, column 14: must be a mapping, got a scalar"),
        ("!!set x", "line 3, column 14: must be a mapping, got a scalar"),
        ("!!set [a]", "line 3, column 14: must be a mapping, got a sequence"),
        ("[" * 1000 + "]" * 1000, "line 3, column 63: more than 50 values inside one another"),
        ("{a: " * 1000 + "}" * 1000, "line 3, column 207: more than 50 values inside one another"),
        ("&a {b: *a}", "line 3, column 21: a value that holds itself"),
        ("&a [[*a]]", "line 3, column 19: a value that holds itself"),
        (r'"\ud800"', "line 3, column 14: half of a character (a lone surrogate escape)"),
        (r'{"\udfff": x}', "line 3, column 15: half of a character (a lone surrogate escape)"),
    ],
)
def test_yaml_that_no_person_writes_is_told_with_its_place(folder: Path, value: str, words: str) -> None:
    assert message(f"{GOOD}description: {value}\n") == f"x.yaml: must be YAML: {words}"


@pytest.mark.parametrize("merge", ["{<<: [%s]}", "[%s]", "{a: [%s]}"])
def test_a_bomb_of_aliases_is_refused_at_once(folder: Path, merge: str) -> None:
    lines = ["m0: &m0 {a: 1}"]
    for level in range(1, 12):
        lines.append(f"m{level}: &m{level} {merge % ', '.join([f'*m{level - 1}'] * 10)}")
    assert "more than 100,000 values, aliases counted as what they stand for" in message("\n".join(lines))


def test_ten_thousand_labels_are_no_bomb(folder: Path) -> None:
    labels = ", ".join(f"label {number}" for number in range(10_000))
    Path("x.yaml").write_text(f"exp_id: e\ndata: {{raw_data_path: d.csv, label_subset: [{labels}]}}\n")
    assert len(load("x.yaml").subsets["label"]) == 10_000


LONG = "x" * 300
TOO_LONG = f"must have names of at most 255 bytes, got 300: {'x' * 40}…"


def test_names_that_no_file_system_takes_are_told(folder: Path) -> None:
    assert message(f"base_config: {LONG}") == f"x.yaml: base_config {TOO_LONG}"
    for setting in ("data.raw_data_path", "data.test_path", "data.global_label_map"):
        with pytest.raises(ConfigError, match="must have names of at most 255 bytes, got 300"):
            load("good.yaml", [f"{setting}={LONG}"])
    with pytest.raises(ConfigError, match=r"model\.arch: must have names of at most 255 bytes"):
        load("good.yaml", [f"model.arch=/x/{LONG}"])
    with pytest.raises(ConfigError, match="must be a path of at most 4000 bytes, got"):
        load("good.yaml", [f"data.raw_data_path={'x/' * 3000}y"])
    with pytest.raises(ConfigError, match="must be a path without NUL"):
        load("good.yaml", [r'data.raw_data_path="a\0b"'])
    with pytest.raises(ConfigError, match="File name too long"):
        load(LONG)
    with pytest.raises(ConfigError, match="at most 60 characters, got 61"):
        load("good.yaml", [f"task_type=multi_cls;data.label_subset={{{'t' * 61}: all}}"])


def test_what_never_ends_is_not_read(folder: Path) -> None:
    os.mkfifo("pipe.yaml")
    for name in ("pipe.yaml", "/dev/full", "/dev/zero"):
        with pytest.raises(ConfigError) as fault:
            load(name)
        assert str(fault.value) == f"{name}: must be a regular file, got a pipe or a device"
    with open("big.yaml", "wb") as big:
        big.truncate(2**31)
    with pytest.raises(ConfigError, match="at most 10,000,000 bytes, got 2,147,483,648"):
        load("big.yaml")


def test_a_label_map_that_never_ends_is_not_read(folder: Path) -> None:
    from loratrack import data

    Path("d.csv").write_text("text,label\na,x\nb,y\n" * 9)
    os.mkfifo("map.json")
    with pytest.raises(UserError, match=r"map\.json: the global label map must be a regular file"):
        data.read(load("good.yaml", ["data.global_label_map=map.json"]))


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        ("train.threads", 1024),
        ("model.lora.rank", 8192),
        ("model.lora.alpha", 1_000_000),
        ("data.max_len", 1_000_000),
        ("train.epochs", 1_000_000),
        ("train.batch_size", 1_000_000),
    ],
)
def test_numbers_end_somewhere(folder: Path, setting: str, limit: int) -> None:
    load("good.yaml", [f"{setting}={limit}"])
    for value in (limit + 1, "1" + "0" * 40):
        with pytest.raises(ConfigError) as fault:
            load("good.yaml", [f"{setting}={value}"])
        assert f"{setting}: must be less than or equal to {limit}" in str(fault.value)


@pytest.mark.parametrize("name", ["a:b", "a\nb", "\x1b[2J"])
def test_a_folder_that_no_version_can_be_called_after_is_told_before_the_training(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "projects" / name / "x.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(GOOD)
    assert main(["run", str(file)]) == 2
    assert (
        f"project: must be a name of printable characters without `/` and `:`, got {name!r}, the name of its"
        " folder; say project: NAME, or rename the folder\n"
    ) in capsys.readouterr().err
    assert load_run(file, ["project=fine"]).registered_model == "fine"
    assert not (folder / "mlruns").exists()


def test_a_key_of_a_thousand_parts_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--set: must be a key of at most 50 parts, got 1000"):
        load("good.yaml", [".".join("a" * 1000) + "=1"])


words = st.sampled_from(
    [
        *("exp_id", "data", "raw_data_path", "train", "epochs", "model", "lora", "rank", "base_config", "r"),
        *("label_subset", "loss_weight", "register", "x.csv", "all", "2", "1e400", "-1", "null", "<<", "*a"),
        *("&a", "!!map", "!!set", "!!binary", "!!str", "!!omap", "? ", "~", '"', "'", "{", "}", "[", "]"),
        *(": ", ", ", "\n", "\n  ", "- ", "|", ">", "#", "%", "@", "`", "\t", "\0", "\x85", "é", "\ud800"),
        *(r'"\ud800"', r'"\0"', "sweep", "space", "choice", "times", "9" * 30, "x" * 300),
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words
trees = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(words | st.text(max_size=3), below, max_size=4)
    ),
    max_leaves=12,
)
sections = st.fixed_dictionaries(
    {"exp_id": st.just("e")},
    optional={
        name: trees if name != "data" else trees | st.just({"raw_data_path": "x.csv"})
        for name in ("description", "task_type", "register", "project", "data", "model", "train", "sweep")
    },
)
files = (
    st.lists(words, max_size=12).map("".join)
    | trees.map(lambda tree: json.dumps(tree))
    | sections.map(lambda tree: json.dumps(tree))
    | st.just(GOOD)
)
keys = st.lists(
    st.sampled_from(["train", "lr", "data", "model", "lora", "rank", "register", "description", "exp_id"]),
    min_size=1,
    max_size=4,
).map(".".join)
overrides = st.lists(
    st.builds(lambda key, value: f"{key}={value}", keys | words, trees.map(json.dumps) | words), max_size=2
)


@settings(max_examples=500)
@given(text=files, more=overrides)
def test_files_and_settings_give_a_config_or_one_message(text: str, more: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "x.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        for config in outcomes(file, more):
            copy = Path(name) / "config_copy.yaml"
            save(config, copy)
            assert load(copy) == config


def outcomes(file: Path, more: list[str]) -> list[RunConfig]:
    """The config of a run, where there is one; any other exception than a UserError fails the test."""
    with suppress(UserError):
        load_sweep(file, more)
    with suppress(UserError):
        return [load_run(file, more)]
    return []
