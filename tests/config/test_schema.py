"""The schema: types, bounds, rules between settings, and what a run derives from them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from loratrack.config import RunConfig, flat, plain
from loratrack.config.schema import READ_TOGETHER, data_paths


def config(settings: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    data = {"raw_data_path": "x.csv", **sections.pop("data", {})}
    return RunConfig.model_validate({"exp_id": "e", "data": data, **sections, **(settings or {})})


def two_tasks(**sections: Any) -> RunConfig:
    subset = {"label_subset": {"risk": ["low", "high"], "adopt": "all"}}
    return config(task_type="double_cls", data={**subset, **sections.pop("data", {})}, **sections)


def problem(build: Any, *args: Any, **sections: Any) -> str:
    """The words of the only problem."""
    with pytest.raises(ValidationError) as caught:
        build(*args, **sections)
    (detail,) = caught.value.errors()
    return detail["msg"].removeprefix("Value error, ")


def test_text_becomes_what_the_setting_is() -> None:
    train = config(train={"lr": "2e-5", "epochs": "3", "gradient_checkpointing": "yes"}).train
    assert (train.lr, train.epochs, train.gradient_checkpointing) == (2e-5, 3, True)


def test_labels_stay_text() -> None:
    assert config(data={"label_subset": ["yes", "no", "007"]}).subsets == {"label": ("yes", "no", "007")}


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().train.lr = 1.0


@pytest.mark.parametrize("name", ["lora_alpha", "alpha"])
def test_pefts_names_are_accepted(name: str) -> None:
    assert config(model={"lora": {name: "8"}}).model.lora.alpha == 8


def test_so_are_pefts_words_for_layers_and_for_its_own_beginning() -> None:
    lora = config(model={"lora": {"layers_to_transform": ["0", "2"], "init_lora_weights": "true"}}).model.lora
    assert (lora.layers, lora.init) == ((0, 2), "default")


@pytest.mark.parametrize(
    ("value", "meant"),
    [("true", True), ("No", False), ("off", False), (False, False), ("my model", "my model")],
)
def test_register_is_a_name_or_a_truth(value: object, meant: object) -> None:
    assert config({"register": value}).register_as == meant


@pytest.mark.parametrize("value", ["a/b", "a:b", "", ".", "..", "a\nb", "\x1b[2J", "a\u202eb"])
@pytest.mark.parametrize("setting", ["register", "project"])
def test_register_refuses_what_the_registry_refuses(setting: str, value: str) -> None:
    words = f"must be a name of printable characters without `/` and `:`, got {value!r}"
    short = "string should have at least 1 character"
    assert problem(config, {setting: value}).replace("String", "string") in (words, short)
    assert problem(config, {setting: "x" * 201}) == "must be a name of at most 200 bytes, got 201"


@pytest.mark.parametrize("value", [None, 3])
def test_register_is_no_number(value: object) -> None:
    assert (
        problem(config, {"register": value})
        == f"must be a name, best, best:NAME, true or false, got {value!r}"
    )


@pytest.mark.parametrize(
    ("value", "model", "registers_best"),
    [
        ("true", "shop", False),
        ("false", None, False),
        ("mine", "mine", False),
        ("best", "shop", True),
        ("best:mine", "mine", True),
    ],
)
def test_register_says_which_model_and_whether_only_a_better_one(
    value: str, model: str | None, registers_best: bool
) -> None:
    made = config(register=value, project="shop")
    assert (made.registered_model, made.registers_best) == (model, registers_best)


def test_a_project_is_a_name_beside_register() -> None:
    assert config({}).project is None
    assert config({"project": "风险", "register": False}).project == "风险"


@pytest.mark.parametrize("name", ["v1", "风险_v1.2-b", "_x", "007"])
def test_exp_ids(name: str) -> None:
    assert config({"exp_id": name}).exp_id == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".hidden", "-x", "x" * 201, "a\n"])
def test_exp_ids_that_no_folder_could_carry(name: str) -> None:
    assert problem(config, {"exp_id": name}) == (
        "must be at most 200 letters, digits, `_`, `-` and `.`, the first a letter, a digit or `_`,"
        f" got {name!r}"
    )


@pytest.mark.parametrize(
    ("section", "settings", "words"),
    [
        ("data", {"label_subset": ["a"]}, "a task needs at least two labels, got ['a']"),
        ("data", {"label_subset": ["a", "b", "a"]}, "listed more than once: a"),
        (
            "data",
            {"label_subset": "some"},
            "must be a list of labels, `all`, or a mapping of tasks to one of these",
        ),
        ("data", {"label_subset": {"t": "some"}}, "must be a list of labels, or `all`"),
        (
            "data",
            {"label_subset": ["a", None]},
            "a label must be text; null and the empty text mean none, 'null' in quotes is one",
        ),
        (
            "data",
            {"label_subset": {"a.b": "all"}},
            "a task's name must be letters, digits, `_` and `-`, got 'a.b'",
        ),
        (
            "data",
            {"label_subset": {"avg": "all"}},
            "a task's name must leave avg, best_… and test_… to the metrics, got 'avg'",
        ),
        (
            "data",
            {"label_subset": {"loss": "all"}},
            "a task's name must leave loss to the picture of the loss, got 'loss'",
        ),
        (
            "data",
            {"text_column": ["a", "a"]},
            "must name one column, or several different ones, got ['a', 'a']",
        ),
        ("data", {"text_column": []}, "must name one column, or several different ones, got []"),
        ("data", {"text_column": {"a": "b"}}, "must be the name of a column, or a list of names"),
        ("data", {"raw_data_path": ""}, "String should have at least 1 character"),
        ("model", {"lora": {"rank": 0}}, "Input should be greater than 0"),
        (
            "model",
            {"lora": {"target_modules": "query"}},
            "must be a list of module names, `auto` or `all-linear`",
        ),
        (
            "model",
            {"lora": {"init": "pissa_niter_4"}},
            "must be default, gaussian or orthogonal, got 'pissa_niter_4', which would change the weights of"
            " the base, which all members of a cohort share and no adapter holds",
        ),
        (
            "model",
            {"lora": {"init_lora_weights": "eva"}},
            "must be default, gaussian or orthogonal, got 'eva', which needs passes over the data before"
            " there is an adapter",
        ),
        (
            "model",
            {"lora": {"bias": "lora_only"}},
            "must be none, got 'lora_only', which would train biases of the base, which all members of a"
            " cohort share and no adapter holds",
        ),
        (
            "model",
            {"lora": {"init": "orthogonal", "rank": 3}},
            "init orthogonal needs an even rank, got 3",
        ),
        ("train", {"lr": "nan"}, "Input should be a finite number"),
        ("train", {"seed": -1}, "Input should be greater than or equal to 0"),
        (
            "train",
            {"loss_weight": "0.5"},
            "must be a list of weights in the order of the tasks, or a mapping of tasks to weights",
        ),
    ],
)
def test_one_setting_alone_is_wrong(section: str, settings: dict[str, Any], words: str) -> None:
    assert problem(config, **{section: settings}) == words


def test_a_run_of_one_task() -> None:
    run = config()
    assert run.tasks == ("label",)
    assert run.subsets == {"label": "all"}
    assert run.label_columns == {"label": "label"}
    assert run.loss_weights == {"label": 1}
    assert run.metric_names == ("accuracy", "f1")
    assert run.best_metric == "f1"


def test_a_run_of_two_tasks() -> None:
    run = two_tasks(data={"label_columns": {"adopt": "is_adopt"}, "text_column": ["title", "body"]})
    assert run.tasks == ("risk", "adopt")
    assert run.subsets == {"risk": ("low", "high"), "adopt": "all"}
    assert run.label_columns == {"risk": "risk", "adopt": "is_adopt"}
    assert run.text_columns == ("title", "body")
    assert run.loss_weights == {"risk": 0.5, "adopt": 0.5}
    assert run.metric_names == (
        "risk_accuracy", "risk_f1", "adopt_accuracy", "adopt_f1", "avg_accuracy", "avg_f1",
    )  # fmt: skip
    assert run.best_metric == "avg_f1"


@pytest.mark.parametrize("weights", [["0.6", "0.4"], {"adopt": 0.4, "risk": 0.6}])
def test_loss_weights_come_in_the_order_of_the_tasks(weights: object) -> None:
    run = two_tasks(train={"loss_weight": weights})
    assert list(run.loss_weights.items()) == [("risk", 0.6), ("adopt", 0.4)]


@pytest.mark.parametrize(
    ("strategy", "metric"),
    [("last", None), ("best_risk_f1", "risk_f1"), ("best_avg_accuracy", "avg_accuracy")],
)
def test_save_strategy_names_the_best_metric(strategy: str, metric: str | None) -> None:
    assert two_tasks(train={"save_strategy": strategy}).best_metric == metric


def test_three_tasks_need_no_more_than_a_third_key() -> None:
    subset = {"risk": "all", "adopt": "all", "channel": "all"}
    run = config(task_type="multi_cls", data={"label_subset": subset})
    assert run.loss_weights == pytest.approx(dict.fromkeys(subset, 1 / 3))


@pytest.mark.parametrize(
    ("kind", "subset", "words"),
    [
        (
            "single_cls",
            {"a": "all", "b": "all"},
            "data.label_subset: task_type single_cls takes one list of labels, got 2 tasks: a, b;"
            " write a list, or task_type: double_cls | multi_cls",
        ),
        ("multi_cls", "all", "data.label_subset: must map each task to its labels for task_type multi_cls"),
        ("double_cls", None, "data.label_subset: must map each task to its labels for task_type double_cls"),
        (
            "double_cls",
            {"a": "all", "b": "all", "c": "all"},
            "data.label_subset: task_type double_cls needs exactly 2 tasks, got 3: a, b, c;"
            " task_type: multi_cls takes any number",
        ),
    ],
)
def test_tasks_must_fit_the_task_type(kind: str, subset: object, words: str) -> None:
    assert problem(config, task_type=kind, data={"label_subset": subset}) == words


def test_multi_cls_needs_a_task() -> None:
    assert "must name at least one task, got none" in problem(
        config, task_type="multi_cls", data={"label_subset": {}}
    )


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"data": {"label_columns": {"rsk": "r"}}},
            "data.label_columns: must name tasks only, got rsk; the tasks are risk, adopt",
        ),
        (
            {"data": {"label_columns": {"adopt": "risk"}}},
            "data.label_columns: risk and adopt read one column: risk",
        ),
        ({"data": {"text_column": "risk"}}, "data.text_column: risk is also the label column of risk"),
        (
            {"train": {"loss_weight": [1]}},
            "train.loss_weight: needs one weight for each of 2 tasks: risk, adopt, got 1: [1.0]",
        ),
        (
            {"train": {"loss_weight": {"risk": 1}}},
            "train.loss_weight: must name each of risk, adopt, got risk",
        ),
        ({"train": {"loss_weight": [0, 0]}}, "train.loss_weight: must not be all 0"),
        (
            {"train": {"save_strategy": "best_f1"}},
            "train.save_strategy: must be one of last, best_risk_accuracy, best_risk_f1, best_adopt_accuracy,"
            " best_adopt_f1, best_avg_accuracy, best_avg_f1, got 'best_f1'",
        ),
        (
            {"train": {"save_strategy": "last", "early_stopping_epochs": 2}},
            "train.early_stopping_epochs: needs a metric to watch; train.save_strategy must name one",
        ),
        (
            {"train": {"optimizer": "sgd"}},
            "lr auto has no rate for optimizer sgd; write a number, such as lr: 0.1",
        ),
        (
            {"train": {"micro_batch_size": 64}},
            "train.micro_batch_size (64) must not be larger than train.batch_size (32)",
        ),
    ],
)
def test_settings_must_fit_together(sections: dict[str, Any], words: str) -> None:
    assert problem(two_tasks, **sections) == words


@pytest.mark.parametrize(
    ("tasks", "data", "words"),
    [
        (
            ["x", "x_probability"],
            {},
            "the probability of x and the task x_probability would both be the column",
        ),
        (
            ["text", "y"],
            {"label_columns": {"text": "a"}},
            "a text column and the task text would both be the",
        ),
        (
            ["y", "z"],
            {"text_column": ["a", "y_probability"]},
            "a text column and the probability of y would both",
        ),
        (["y", "confusion_y"], {}, "the task confusion_y would share a picture with the task y"),
    ],
)
def test_names_that_would_be_one_are_refused(tasks: list[str], data: dict[str, Any], words: str) -> None:
    subset = {"label_subset": dict.fromkeys(tasks, "all")}
    message = problem(config, task_type="double_cls", data={**subset, **data})
    assert message.startswith(f"data.label_subset: {words}")
    assert "\n" not in message


def test_the_single_task_is_a_column_of_answers_too() -> None:
    data = {"text_column": "label", "label_columns": {"label": "mood"}}
    assert "a text column and the task label would both be the column 'label'" in problem(config, data=data)


def test_all_that_does_not_fit_together_is_reported() -> None:
    words = problem(
        two_tasks, data={"text_column": "risk"}, train={"loss_weight": [1], "save_strategy": "f1"}
    )
    assert [line.split(":")[0] for line in words.splitlines()] == [
        "data.text_column", "train.loss_weight", "train.save_strategy",
    ]  # fmt: skip


def test_rules_read_settings_that_exist() -> None:
    assert set(READ_TOGETHER) <= set(flat(plain(config())))


def test_data_paths_name_the_files_a_run_reads() -> None:
    paths = data_paths(config(data={"test_path": "t.csv"}))
    assert {setting: str(path) for setting, path in paths.items()} == {
        "data.raw_data_path": "x.csv",
        "data.test_path": "t.csv",
    }


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (None, {}),
        ("balanced", {"risk": "balanced", "adopt": "balanced"}),
        (
            {"risk": "balanced", "adopt": {"no": "2.5"}},
            {"risk": "balanced", "adopt": {"no": 2.5}},
        ),
        ({"adopt": {"no": 3}}, {"adopt": {"no": 3}}),
    ],
)
def test_class_weights_are_those_of_each_task(written: object, meant: object) -> None:
    assert two_tasks(train={"class_weight": written}).class_weights == meant


def test_the_class_weights_of_one_task_stand_alone() -> None:
    assert config(train={"class_weight": {"1.0": "2"}}).class_weights == {"label": {"1.0": 2}}
    assert config(train={"class_weight": "balanced"}).class_weights == {"label": "balanced"}


def test_class_weights_of_another_shape_are_refused() -> None:
    assert problem(config, train={"class_weight": {"label": "balanced"}}) == (
        "train.class_weight: must give each label of task_type single_cls a number; got {'label': 'balanced'}"
    )
    assert problem(two_tasks, train={"class_weight": {"no": 3, "rsik": "balanced"}}) == (
        "train.class_weight: must map tasks to `balanced` or {label: weight}, the tasks are risk, adopt;"
        " got {'no': 3.0, 'rsik': 'balanced'}"
    )
    assert problem(config, train={"class_weight": "heavy"}) == (
        "must be `balanced`, a mapping of labels to weights, or a mapping of tasks to one of these"
    )


def test_labels_do_not_become_names_of_parameters() -> None:
    weights = {"a.b": 2.0, "what?": 3.0}
    assert flat(plain(config(train={"class_weight": weights})))["train.class_weight"] == weights


@pytest.mark.parametrize(
    ("written", "meant"),
    [("true", ("risk", "adopt")), (False, ()), (["adopt"], ("adopt",)), ([], ())],
)
def test_multi_label_tasks_are_all_none_or_listed(written: object, meant: object) -> None:
    data = {"multi_label": written, "label_subset": {"risk": ["a", "b"], "adopt": "all"}}
    several = two_tasks(data=data)
    assert several.multi_label_tasks == meant
    assert [name for name in several.metric_names if name.endswith("micro")] == [
        f"{task}_f1_micro" for task in several.multi_label_tasks
    ]


def test_a_single_multi_label_task_has_a_micro_f1() -> None:
    assert config(data={"multi_label": True}).metric_names == ("accuracy", "f1", "f1_micro")


@pytest.mark.parametrize(
    ("made", "metric"),
    [
        (config(data={"multi_label": True}, train={"save_strategy": "last"}), "f1"),
        (two_tasks(train={"save_strategy": "last"}), "avg_f1"),
        (config(train={"save_strategy": "best_accuracy"}), "accuracy"),
    ],
)
def test_a_run_is_judged_by_the_metric_that_its_epoch_was_kept_for_or_by_macro_f1(
    made: RunConfig, metric: str
) -> None:
    assert made.main_metric == metric


def test_what_no_multi_label_task_can_be_is_refused() -> None:
    assert problem(two_tasks, data={"multi_label": ["topics"]}) == (
        "data.multi_label: must name tasks only, got topics; the tasks are risk, adopt"
    )
    assert problem(config, data={"multi_label": "topics"}) == "must be true, false or a list of tasks"
    assert problem(config, data={"multi_label": True, "label_subset": ["a;b", "c"]}) == (
        "data.label_separator: must not stand in a label of the multi-label task label, got ';' in 'a;b';"
        " choose another separator"
    )
    pictures = {"x": ["a", "b"], "label_scores_x": ["a", "b"]}
    assert problem(config, task_type="double_cls", data={"multi_label": ["x"], "label_subset": pictures}) == (
        "data.label_subset: the task label_scores_x would share a picture with the task x; rename one of them"
        " (data.label_columns says which column a task reads)"
    )
