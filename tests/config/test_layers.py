"""YAML files, their parents, and `--set`: what the settings are before anybody checks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.config.layers import FROZEN_MARK, merge, merged, read_layers
from loratrack.errors import ConfigError

Write = Callable[[str, str], Path]

keys = st.sampled_from("abcd")
leaves = st.none() | st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=2)
mappings = st.recursive(
    st.dictionaries(keys, leaves, max_size=3),
    lambda below: st.dictionaries(keys, below | leaves, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of an otherwise empty project, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MLproject").write_text("name: loratrack\n")

    def one(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return one


def settings(file: Path, *overrides: str) -> dict[str, Any]:
    return merged(read_layers(file, overrides))


def message(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_layers(file, overrides)
    return str(caught.value)


@given(mappings)
def test_merging_with_itself_changes_nothing(one: dict[str, Any]) -> None:
    assert merge(one, one) == one


@given(mappings, mappings)
def test_merging_twice_is_merging_once(parent: dict[str, Any], child: dict[str, Any]) -> None:
    once = merge(parent, child)
    assert merge(once, child) == once


@given(mappings, mappings)
def test_what_the_child_says_stands(parent: dict[str, Any], child: dict[str, Any]) -> None:
    def stands(child: dict[str, Any], result: dict[str, Any]) -> bool:
        return all(
            stands(value, result[key]) if isinstance(value, dict) else result[key] == value
            for key, value in child.items()
        )

    assert stands(child, merge(parent, child))


@given(mappings, mappings)
def test_merging_leaves_its_arguments_alone(parent: dict[str, Any], child: dict[str, Any]) -> None:
    before = repr((parent, child))
    merge(parent, child)
    assert repr((parent, child)) == before


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfexp_id: e\r\n")
    assert settings(tmp_path / "x.yaml") == {"exp_id": "e"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x.yaml: must hold settings, got an empty file"),
        ("# only a comment\n", "x.yaml: must hold settings, got an empty file"),
        ("- a\n", "x.yaml: must hold settings (`key: value`), got a list"),
        ("hello", "x.yaml: must hold settings (`key: value`), got one value"),
        ("a: 1\nb: 2\na: 3\n", "x.yaml: must be YAML: line 3, column 1: the same key twice: a"),
        ("a: {b: 1, b: 2}", "x.yaml: must be YAML: line 1, column 11: the same key twice: b"),
        (
            "a:\n\tb: 1\n",
            "x.yaml: must be YAML: line 2, column 1: a tab; indent with spaces",
        ),
        ("a: [1\n", "x.yaml: must be YAML: line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        (
            "a: 1\n---\nb: 2\n",
            "x.yaml: must be YAML: line 2, column 1: but found another document",
        ),
        (
            "a: !!python/object:os.system x",
            "x.yaml: must be YAML: line 1, column 4: could not determine a constructor for the tag"
            " 'tag:yaml.org,2002:python/object:os.system'",
        ),
        (
            "model: {lora: {r: 4, rank: 8}}",
            "x.yaml: model.lora says rank twice, once as rank; leave one of them",
        ),
        ("base_config: [a, b]", "x.yaml: base_config must name one file, got ['a', 'b']"),
    ],
)
def test_files_that_hold_no_settings(write: Write, text: str, words: str) -> None:
    write("x.yaml", text)
    assert message(Path("x.yaml")) == words


def test_a_file_that_is_not_utf8(write: Write) -> None:
    write("x.yaml", "").write_bytes("描述: 风险".encode("gbk"))
    assert message(Path("x.yaml")) == "x.yaml: must be UTF-8 text, got byte 0xc3 at 0; save it as UTF-8"


def test_a_folder_is_no_config(write: Write) -> None:
    write("folder/x.yaml", "a: b")
    assert message(Path("folder")) == "folder: cannot be read: Is a directory"


def test_a_file_that_is_not_there(write: Write) -> None:
    write("exp_v4.yaml", "a: b")
    assert message(Path("exp_4.yaml")) == "exp_4.yaml: no such config file; did you mean 'exp_v4.yaml'?"
    assert message(Path("other.yaml")) == "other.yaml: no such config file; its folder has exp_v4.yaml"
    assert (
        message(Path("nowhere/x.yaml")) == "nowhere/x.yaml: no such config file; there is no folder nowhere"
    )


def test_a_child_overrides_its_parents_at_any_depth(write: Write) -> None:
    write("grandparent.yaml", "train: {lr: 1, epochs: 1, seed: 1}\nmodel: {lora: {target_modules: [a, b]}}")
    write("parent.yaml", "base_config: grandparent.yaml\ntrain: {lr: 2, epochs: 2}")
    child = write(
        "child.yaml", "base_config: parent.yaml\ntrain: {lr: 3}\nmodel: {lora: {target_modules: [c]}}"
    )
    assert settings(child) == {
        "base_config": "parent.yaml",
        "train": {"lr": "3", "epochs": "2", "seed": "1"},
        "model": {"lora": {"target_modules": ["c"]}},
    }


@pytest.mark.parametrize(("parent", "child"), [("r", "rank"), ("rank", "r")])
def test_both_names_of_a_lora_setting_override_each_other(write: Write, parent: str, child: str) -> None:
    write("parent.yaml", f"model: {{lora: {{{parent}: 4, lora_alpha: 8, dropout: 0.1}}}}")
    file = write("x.yaml", f"base_config: parent.yaml\nmodel: {{lora: {{{child}: 16}}}}")
    assert settings(file, "model.lora.lora_dropout=0")["model"]["lora"] == {
        "rank": "16",
        "alpha": "8",
        "dropout": "0",
    }


def test_a_task_may_be_called_r(write: Write) -> None:
    file = write("x.yaml", "data: {label_subset: {r: all, lora_alpha: all}}")
    assert list(settings(file)["data"]["label_subset"]) == ["r", "lora_alpha"]


def test_a_parent_is_looked_up_beside_the_file_first(write: Write) -> None:
    write("projects/risk/templates/t.yaml", "a: beside")
    write("projects/templates/t.yaml", "a: below projects")
    write("projects/clinc/templates/t.yaml", "base_config: templates/t.yaml")
    near = write("projects/risk/x.yaml", "base_config: templates/t.yaml")
    far = write("projects/other/x.yaml", "base_config: templates/t.yaml")
    assert settings(near)["a"] == "beside"
    assert settings(far)["a"] == "below projects"


def test_a_parent_is_found_below_projects_from_outside_of_it(write: Write, tmp_path: Path) -> None:
    write("projects/templates/t.yaml", "a: below projects")
    assert settings(write("mine/x.yaml", "base_config: templates/t.yaml"))["a"] == "below projects"


def test_a_parent_is_found_from_a_file_outside_of_the_project(
    write: Write, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write("projects/templates/t.yaml", "a: of the current project")
    file = tmp_path_factory.mktemp("elsewhere") / "x.yaml"
    file.write_text("base_config: templates/t.yaml")
    assert settings(file)["a"] == "of the current project"


def test_a_parent_that_is_not_there(write: Write, tmp_path: Path) -> None:
    write("projects/a/x.yaml", "base_config: t.yaml")
    assert message(Path("projects/a/x.yaml")) == (
        "projects/a/x.yaml: base_config must name a file, got 't.yaml';"
        f" looked at {tmp_path}/projects/a/t.yaml, {tmp_path}/projects/t.yaml"
    )


def test_a_parent_in_another_folder_is_suggested(write: Write, tmp_path: Path) -> None:
    write("projects/templates/bert_lora_template.yaml", "exp_id: t")
    write("projects/a/x.yaml", "base_config: bert_lora_template.yaml")
    meant = "; did you mean 'templates/bert_lora_template.yaml'?; looked at"
    assert meant in message(Path("projects/a/x.yaml"))
    write("projects/a/y.yaml", "base_config: templates/bert_lora_templat.yaml")
    assert meant in message(Path("projects/a/y.yaml"))


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.jsonl"])
def test_data_is_no_config(write: Write, name: str) -> None:
    write(name, "text,label\n")
    remedy = f"write a config for it: loratrack init {name}"
    assert message(Path(name)) == f"{name}: is data, not a config; {remedy}"


def test_a_circle_of_parents_is_shown(write: Write) -> None:
    write("a.yaml", "base_config: below/b.yaml")
    write("below/b.yaml", "base_config: c.yaml")
    write("below/c.yaml", "base_config: b.yaml")
    words = "a.yaml: circular base_config: b.yaml -> c.yaml -> b.yaml"
    assert message(Path("a.yaml")) == words
    write("self.yaml", "base_config: self.yaml")
    assert message(Path("self.yaml")) == "self.yaml: circular base_config: self.yaml -> self.yaml"


def test_paths_are_relative_to_the_file_that_says_them(write: Write, tmp_path: Path) -> None:
    write("data/parents.csv", "")  # must not be taken: it lies beside the child
    write("parents/p.yaml", "data: {raw_data_path: ./data/parents.csv, test_path: ../t.csv}")
    file = write(
        "x.yaml", "base_config: parents/p.yaml\ndata: {test_path: data/own.csv}\nmodel: {arch: ./base}"
    )
    assert settings(file)["data"] == {
        "raw_data_path": f"{tmp_path}/parents/data/parents.csv",
        "test_path": f"{tmp_path}/data/own.csv",
    }
    assert settings(file)["model"]["arch"] == f"{tmp_path}/base"


@pytest.mark.parametrize("name", ["minilm", "bert-base-chinese", "nghuyong/ernie-3.0-base-zh", "models:/a@b"])
def test_names_of_bases_are_no_paths(write: Write, name: str) -> None:
    assert settings(write("x.yaml", f"model: {{arch: '{name}'}}"))["model"]["arch"] == name


def test_urls_are_left_for_others_to_refuse(write: Write) -> None:
    file = write("x.yaml", "data: {raw_data_path: 'http://x/y.csv'}")
    assert settings(file)["data"]["raw_data_path"] == "http://x/y.csv"


def test_a_frozen_copy_has_no_parents_and_paths_from_the_root(write: Write, tmp_path: Path) -> None:
    text = f"{FROZEN_MARK}\nbase_config: gone.yaml\ndata: {{raw_data_path: projects/x.csv}}\n"
    file = write("mlruns/1/artifacts/config_copy.yaml", text)
    assert settings(file) == {
        "base_config": "gone.yaml",
        "data": {"raw_data_path": f"{tmp_path}/projects/x.csv"},
    }


def test_set_comes_last(write: Write) -> None:
    file = write("x.yaml", "train: {lr: 1, epochs: 2}")
    assert settings(file, "train.lr=3", "train.lr=4; a=b")["train"] == {"lr": "4", "epochs": "2"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=2e-5", "2e-5"),
        ("a = 007 ", "007"),
        ("a=null", None),
        ("a='null'", "null"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("a=[0.3,0.7]", ["0.3", "0.7"]),
        ("a={x: [低, 高], y: all}", {"x": ["低", "高"], "y": "all"}),
        ('a="one; two"', "one; two"),
        ("a='it''s; one'", "it's; one"),
        ('a=["x;y", z]', ["x;y", "z"]),
        ('a="say \\"no;\\" twice"', 'say "no;" twice'),
        ("a=it's fine; b=it's too", "it's fine"),
    ],
)
def test_set_values_are_yaml(write: Write, text: str, value: object) -> None:
    assert settings(write("x.yaml", "z: 1"), text)["a"] == value


@pytest.mark.parametrize("text", ["", " ", ";", " ; ;"])
def test_empty_parts_of_set_are_ignored(write: Write, text: str) -> None:
    assert settings(write("x.yaml", "z: 1"), text) == {"z": "1"}


def test_set_takes_several_separated_by_semicolons(write: Write) -> None:
    result = settings(write("x.yaml", "z: 1"), "a.b=1;a.c=[2,3];;d=4;")
    assert result == {"z": "1", "a": {"b": "1", "c": ["2", "3"]}, "d": "4"}


def test_paths_in_set_are_relative_to_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("a/x.yaml", "z: 1")
    write("b/c.csv", "")
    monkeypatch.chdir(tmp_path / "b")
    assert settings(file, "data.raw_data_path=c.csv")["data"]["raw_data_path"] == f"{tmp_path}/b/c.csv"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs", "--set: must be key.path=value, got 'epochs'; example: --set train.epochs=2"),
        ("=3", "--set: must be key.path=value, got '=3'; example: --set train.epochs=2"),
        ("a..b=3", "--set: must be key.path=value, got 'a..b=3'; example: --set train.epochs=2"),
        (
            "a=[1",
            "--set a: must be a YAML value, got '[1': line 1, column 3: expected ',' or ']', but got"
            " '<stream end>'; quotes keep it text: --set 'a=\"…\"'",
        ),
        (
            "base_config=t.yaml",
            "--set base_config: parents are read before --set; name the parent in the file",
        ),
        (
            "model.lora={r: 1, rank: 2}",
            "--set model.lora={r: 1, rank: 2}: model.lora says rank twice, once as rank; leave one of them",
        ),
    ],
)
def test_set_texts_that_say_nothing(write: Write, text: str, words: str) -> None:
    assert message(write("x.yaml", "z: 1"), text) == words


def test_a_space_is_set_by_the_name_of_what_it_varies(write: Write) -> None:
    file = write("x.yaml", "sweep: {name: s, space: {train.lr: {log: [1, 2]}, train.seed: {int: [1, 2]}}}")
    changed = settings(
        file,
        "sweep.space.train.lr={choice: [1, 2]}",
        "sweep.space.train.seed.int=[3, 4]",
        "sweep.space.train.seed.when={model.use_lora: true}",
        "sweep.space.model.lora.rank={choice: [4, 8]}",
    )
    assert changed["sweep"]["space"] == {
        "train.lr": {"choice": ["1", "2"]},
        "train.seed": {"int": ["3", "4"], "when": {"model.use_lora": "true"}},
        "model.lora.rank": {"choice": ["4", "8"]},
    }
    assert message(file, "sweep.space.=1").startswith("--set: must be key.path=value")
