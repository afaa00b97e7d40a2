"""What a user reads when a config is wrong: all of it, once, in the words of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from loratrack.config import load
from loratrack.errors import ConfigError

RIGHT = "exp_id: e\ndata: {raw_data_path: x.csv}\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(text: str, *overrides: str) -> list[str]:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load("x.yaml", overrides)
    return str(caught.value).split("\n")


def test_all_problems_are_reported_at_once() -> None:
    text = (
        "exp_id: my run\n"
        "data: {raw_data_pth: x.csv, label_subset: [a, a]}\n"
        "model: {pooling: max, use_lora: maybe}\n"
        "train: {lr: fast, epohs: 3, batch_size: 0}\n"
        "resources: none\n"
    )
    assert lines(text) == [
        "x.yaml: 10 invalid settings",
        "  exp_id: must be at most 200 letters, digits, `_`, `-` and `.`, the first a letter, a digit or `_`,"
        " got 'my run'",
        "  data.raw_data_path: must be given",
        "  data.label_subset: listed more than once: a",
        "  data.raw_data_pth: no such setting; did you mean data.raw_data_path?",
        "  model.use_lora: must be a valid boolean, unable to interpret input, got 'maybe'",
        "  model.pooling: must be one of cls, mean, last, got 'max'",
        "  train.batch_size: must be greater than 0, got '0'",
        "  train.lr: must be a number, got 'fast'",
        "  train.epohs: no such setting; did you mean train.epochs?",
        "  resources: must hold settings of its own, got 'none'",
    ]


def test_what_does_not_fit_together_is_reported_with_the_rest() -> None:
    text = (
        "exp_id: e\ntask_type: double_cls\n"
        "data: {raw_data_path: x.csv, label_subset: {a: all, b: all, text: all}}\n"
        "train: {weight_decay: -1, loss_weight: [1, 2], sede: 3}\n"
    )
    assert lines(text) == [
        "x.yaml: 5 invalid settings",
        "  train.weight_decay: must be greater than or equal to 0, got '-1'",
        "  train.sede: no such setting; did you mean train.seed?",
        "  data.label_subset: task_type double_cls needs exactly 2 tasks, got 3: a, b, text;"
        " task_type: multi_cls takes any number",
        "  data.text_column: text is also the label column of text",
        "  train.loss_weight: needs one weight for each of 3 tasks: a, b, text, got 2: [1.0, 2.0]",
    ]


def test_no_problem_is_reported_that_only_follows_from_another() -> None:
    text = "exp_id: e\ntask_typ: multi_cls\ndata: {raw_data_path: x.csv, label_subset: {a: all, b: all}}\n"
    assert lines(text) == [
        "x.yaml: 1 invalid setting",
        "  task_typ: no such setting; did you mean task_type?",
    ]
    text = (
        "exp_id: e\ndata: {raw_data_path: x.csv, label_subset: {a: all, b: [c]}}\ntrain: {loss_weight: [1]}\n"
    )
    assert lines(text) == [
        "x.yaml: 1 invalid setting",
        "  data.label_subset.b: a task needs at least two labels, got ['c']",
    ]


def test_faults_inside_lists_and_mappings_name_their_place() -> None:
    text = (
        "exp_id: e\ntask_type: double_cls\n"
        "data: {raw_data_path: x.csv, label_subset: {a: [b, ~], c d: all, str: 5}}\n"
        "train: {loss_weight: [1, much]}\n"
    )
    assert lines(text)[1:] == [
        "  data.label_subset.a.1: a label must be text; null and the empty text mean none,"
        " 'null' in quotes is one",
        "  data.label_subset.c d: a task's name must be letters, digits, `_` and `-`, got 'c d'",
        "  data.label_subset.str: must be a list of labels, or `all`, got '5'",
        "  train.loss_weight.1: must be a number, got 'much'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1", "lr: no such setting; did you mean train.lr?"),
        ("registre: x", "registre: no such setting; did you mean register?"),
        ("register_as: x", "register_as: no such setting; did you mean register?"),
        ("train: {model: {lora: 1}}", "train.model: no such setting; did you mean model?"),
        (
            "model: {lora: {lora_alhpa: 1}}",
            "model.lora.lora_alhpa: no such setting; did you mean model.lora.alpha?",
        ),
        ("trian: {lr: 1}", "trian: no such setting; did you mean train?"),
        ("train: {lora: 1}", "train.lora: no such setting; did you mean model.lora?"),
        ("model: {zzzzz: 1}", "model.zzzzz: no such setting"),
        ("zzz: 1", "zzz: no such setting"),
    ],
)
def test_unknown_settings_name_the_nearest(text: str, message: str) -> None:
    assert lines(RIGHT + text) == ["x.yaml: 1 invalid setting", f"  {message}"]


def test_a_key_that_is_no_text() -> None:
    assert lines(RIGHT + "~: 1\n") == [
        "x.yaml: 1 invalid setting",
        "  None: keys should be strings, got None",
    ]


def test_a_problem_names_the_parent_or_the_override_that_said_it() -> None:
    Path("projects").mkdir()
    Path("projects/t.yaml").write_text("train: {lr: fast, batch_size: 0}", encoding="utf-8")
    messages = lines(
        f"{RIGHT}base_config: projects/t.yaml\ntrain: {{batch_size: -1}}", "train.seed=x;train.lora=1"
    )
    parent = Path("projects/t.yaml").resolve()
    assert messages[1:] == [
        "  train.batch_size: must be greater than 0, got '-1'",
        f"  train.lr: must be a number, got 'fast' (in {parent})",
        "  train.seed: must be a whole number, got 'x' (in --set train.seed=x)",
        "  train.lora: no such setting; did you mean model.lora? (in --set train.lora=1)",
    ]


def test_long_values_are_cut() -> None:
    messages = lines(f"{RIGHT}train: {{lr: {'x' * 5000}}}")
    assert len(messages[1]) < 200
    assert "xxx...xxx" in messages[1]


def test_full_width_signs_are_named() -> None:
    text = (
        "exp_id: e\ndata: {raw_data_path: x.csv, label_subset: [低，高]}\ntrain: {lr: 0．01, epochs: ３x}\n"
    )
    assert lines(text)[1:] == [
        "  data.label_subset: a task needs at least two labels, got ['低，高']; write ',' for the full-width"
        " '，' between labels",
        "  train.lr: must be a number, got '0．01'; write '.' for the full-width '．'",
        "  train.epochs: must be a whole number, got '３x'; write '3' for the full-width '３'",
    ]
    assert lines(text.replace("[低，高]", "[低, 高]").replace("0．01", "1，2").replace("３x", "3"))[1:] == [
        "  train.lr: must be a number, got '1，2'; write ',' for the full-width '，'"
    ]


def test_a_parent_that_is_started_is_one_problem() -> None:
    assert lines("train: {epochs: 2, sede: 1}") == [
        "x.yaml: 2 invalid settings",
        "  train.sede: no such setting; did you mean train.seed?",
        "  exp_id, data: must be given; a file without them is a parent: name it as base_config in a file of"
        " your own",
    ]
