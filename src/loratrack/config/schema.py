"""The schema: every setting of a run, its type, bounds and only default.

Scalars arrive as the text that stands in the YAML file, and the types here decide what they mean:
`2e-5` becomes a number where a number is asked for, `yes` and `007` stay text where a label is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from loratrack.config.data import Data, Subset
from loratrack.config.fields import NO, YES, NotEmpty, Section
from loratrack.config.model import Model
from loratrack.config.train import BALANCED, Train
from loratrack.errors import counted

SINGLE_TASK = "label"
"""The name of the only task of a `single_cls` run, and its default column."""

MAX_REGISTERED_BYTES = 200
BEST = "best"


TaskType = Literal["single_cls", "double_cls", "multi_cls"]


def registry_problem(name: str) -> str | None:
    """Why the model registry, or the folder of its files, could not take this name."""
    if not name or name in (".", "..") or set(name) & set("/:") or not name.isprintable():
        return f"must be a name of printable characters without `/` and `:`, got {name!r}"
    if len(name.encode()) > MAX_REGISTERED_BYTES:
        return f"must be a name of at most {MAX_REGISTERED_BYTES} bytes, got {len(name.encode())}"
    return None


class Resources(Section):
    priority: Literal["low", "medium", "high"] = "medium"


class RunConfig(Section):
    """What a run is. `config_copy.yaml` holds exactly this, and gives the run again."""

    exp_id: str
    description: str = ""
    base_config: str | None = None
    """The parent this config was merged from; for people, as its settings are merged in."""
    task_type: TaskType = "single_cls"
    register_as: str | bool = Field(True, alias="register")
    """Name in the model registry; true: the project's name; false: no version is made; best, best:NAME: only
    one that beats the newest."""
    project: NotEmpty | None = None
    """A tag to filter by; null: the folder below projects/ that the config lies in."""
    experiment: NotEmpty | None = None
    """MLflow's experiment that its runs go to; null: the project's name."""
    baseline: bool = True
    """Fit a TF-IDF classifier on the same rows, for comparison."""
    data: Data
    model: Model = Model()
    train: Train = Train()
    resources: Resources = Resources()

    @field_validator("exp_id")
    @classmethod
    def _exp_id_names_a_run(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]{0,199}", name):
            raise ValueError(
                "must be at most 200 letters, digits, `_`, `-` and `.`, the first a letter, a digit or `_`,"
                f" got {name!r}"
            )
        return name

    @field_validator("project", "experiment")
    @classmethod
    def _project_can_name_a_registered_model(cls, name: str | None) -> str | None:
        if name is not None and (problem := registry_problem(name)):
            raise ValueError(problem)
        return name

    @field_validator("register_as", mode="before")
    @classmethod
    def _register_is_a_name_or_a_truth(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in YES | NO:
            return value.lower() in YES
        if not isinstance(value, bool | str):
            raise ValueError(f"must be a name, best, best:NAME, true or false, got {value!r}")
        if isinstance(value, str) and (problem := registry_problem(value.removeprefix(f"{BEST}:"))):
            raise ValueError(problem)
        return value

    @property
    def registered_model(self) -> str | None:
        """The model that its version would be one of; None: no version is made."""
        if isinstance(self.register_as, bool) or self.register_as == BEST:
            return self.project if self.register_as else None
        return self.register_as.removeprefix(f"{BEST}:")

    @property
    def registers_best(self) -> bool:
        """Whether only a model that beats the newest version becomes one."""
        return isinstance(self.register_as, str) and self.register_as.partition(":")[0] == BEST

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in file order."""
        return tuple(self.subsets)

    @property
    def subsets(self) -> dict[str, Subset]:
        """Labels of each task, or `all`."""
        subset = self.data.label_subset
        return dict(subset) if isinstance(subset, dict) else {SINGLE_TASK: subset or "all"}

    @property
    def label_columns(self) -> dict[str, str]:
        return {task: self.data.label_columns.get(task, task) for task in self.tasks}

    @property
    def multi_label_tasks(self) -> tuple[str, ...]:
        """The tasks with any number of labels a row."""
        chosen = self.data.multi_label
        if isinstance(chosen, bool):
            return self.tasks if chosen else ()
        return tuple(task for task in self.tasks if task in chosen)

    @property
    def text_columns(self) -> tuple[str, ...]:
        columns = self.data.text_column
        return (columns,) if isinstance(columns, str) else columns

    @property
    def loss_weights(self) -> dict[str, float]:
        """One weight for each task; equal ones when the config names none."""
        weights = self.train.loss_weight
        if weights is None:
            return {task: 1 / len(self.tasks) for task in self.tasks}
        if isinstance(weights, dict):
            return {task: weights[task] for task in self.tasks}
        return dict(zip(self.tasks, weights, strict=True))

    @property
    def class_weights(self) -> dict[str, Literal["balanced"] | dict[str, float]]:
        """Of the tasks that have any: a weight for each label, or `balanced`."""
        weights: Any = self.train.class_weight
        if weights == BALANCED:
            return dict.fromkeys(self.tasks, BALANCED)
        by_task = {SINGLE_TASK: weights} if self.task_type == "single_cls" and weights else weights or {}
        return {task: by_task[task] for task in self.tasks if task in by_task}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of one evaluation, in the order they are shown."""
        measures = {
            task: ("accuracy", "f1", *(["f1_micro"] if task in self.multi_label_tasks else []))
            for task in self.tasks
        }
        if len(self.tasks) == 1:
            return measures[self.tasks[0]]
        each = [f"{task}_{measure}" for task in self.tasks for measure in measures[task]]
        return (*each, "avg_accuracy", "avg_f1")

    @property
    def best_metric(self) -> str | None:
        """The metric that decides which epoch is kept; None keeps the last."""
        if self.train.save_strategy == "last":
            return None
        name = self.train.save_strategy.removeprefix("best_")
        return name.removeprefix("avg_") if len(self.tasks) == 1 else name

    @property
    def main_metric(self) -> str:
        """The metric that a run is judged by: the one its epoch was kept for, else macro-F1."""
        return self.best_metric or ("f1" if len(self.tasks) == 1 else "avg_f1")

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        """The rules across sections; READ_TOGETHER lists the settings that they read."""
        problems: list[str] = []
        subset, kind, tasks = self.data.label_subset, self.task_type, self.tasks
        if kind == "single_cls" and isinstance(subset, dict):
            problems.append(
                "data.label_subset: task_type single_cls takes one list of labels,"
                f" got {counted(len(subset), 'task')}: {', '.join(subset)};"
                " write a list, or task_type: double_cls | multi_cls"
            )
        elif kind != "single_cls" and not isinstance(subset, dict):
            problems.append(f"data.label_subset: must map each task to its labels for task_type {kind}")
        elif kind == "double_cls" and len(tasks) != 2:
            problems.append(
                f"data.label_subset: task_type double_cls needs exactly 2 tasks, got {len(tasks)}:"
                f" {', '.join(tasks)}; task_type: multi_cls takes any number"
            )
        elif not tasks:
            problems.append("data.label_subset: must name at least one task, got none")

        no_tasks = sorted(set(self.data.label_columns) - set(tasks))
        if no_tasks:
            problems.append(
                f"data.label_columns: must name tasks only, got {', '.join(no_tasks)};"
                f" the tasks are {', '.join(tasks)}"
            )
        tasks_of: dict[str, list[str]] = {}
        for task, column in self.label_columns.items():
            tasks_of.setdefault(column, []).append(task)
        for column, readers in tasks_of.items():
            if len(readers) > 1:
                problems.append(f"data.label_columns: {' and '.join(readers)} read one column: {column}")
            if column in self.text_columns:
                problems.append(f"data.text_column: {column} is also the label column of {readers[0]}")
        problems += self._name_collisions()
        problems += self._multi_label_problems()

        weights = self.train.loss_weight
        if isinstance(weights, tuple) and len(weights) != len(tasks):
            problems.append(
                f"train.loss_weight: needs one weight for each of {counted(len(tasks), 'task')}:"
                f" {', '.join(tasks)}, got {len(weights)}: {list(weights)}"
            )
        if isinstance(weights, dict) and set(weights) != set(tasks):
            problems.append(
                f"train.loss_weight: must name each of {', '.join(tasks)}, got {', '.join(weights)}"
            )
        values = weights.values() if isinstance(weights, dict) else weights
        if values and not any(values):
            problems.append("train.loss_weight: must not be all 0")

        problems += self._class_weight_problems()

        train = self.train
        strategies = ["last", *(f"best_{name}" for name in self.metric_names)]
        # With one task avg_f1 is its f1, so that a template may say best_avg_f1 for any number of tasks.
        if train.save_strategy not in (*strategies, "best_avg_accuracy", "best_avg_f1"):
            problems.append(
                f"train.save_strategy: must be one of {', '.join(strategies)}, got {train.save_strategy!r}"
            )
        if train.save_strategy == "last" and train.early_stopping_epochs is not None:
            problems.append(
                "train.early_stopping_epochs: needs a metric to watch; train.save_strategy must name one"
            )
        if train.micro_batch_size is not None and train.micro_batch_size > train.batch_size:
            problems.append(
                f"train.micro_batch_size ({train.micro_batch_size}) must not be larger than"
                f" train.batch_size ({train.batch_size})"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _multi_label_problems(self) -> list[str]:
        chosen, separator = self.data.multi_label, self.data.label_separator
        no_tasks = [] if isinstance(chosen, bool) else [name for name in chosen if name not in self.tasks]
        problems = []
        if no_tasks:
            problems.append(
                f"data.multi_label: must name tasks only, got {', '.join(no_tasks)};"
                f" the tasks are {', '.join(self.tasks)}"
            )
        for task in self.multi_label_tasks:
            joined = [label for label in self.subsets[task] if separator in label]
            if joined and self.subsets[task] != "all":
                problems.append(
                    f"data.label_separator: must not stand in a label of the multi-label task {task}, got"
                    f" {separator!r} in {joined[0]!r}; choose another separator"
                )
        return problems

    def _class_weight_problems(self) -> list[str]:
        weights = self.train.class_weight
        if not isinstance(weights, dict):
            return []
        if self.task_type == "single_cls":
            wrong = [key for key, value in weights.items() if not isinstance(value, float)]
            must = "must give each label of task_type single_cls a number"
        else:
            wrong = [
                key for key, value in weights.items() if key not in self.tasks or isinstance(value, float)
            ]
            must = f"must map tasks to `balanced` or {{label: weight}}, the tasks are {', '.join(self.tasks)}"
        shown = {key: weights[key] for key in wrong}
        return [f"train.class_weight: {must}; got {shown}"] if wrong else []

    def _name_collisions(self) -> list[str]:
        """Answers have a column for each text, label and probability, a run two pictures for each task."""
        owners: dict[str, list[str]] = {}
        for text in self.text_columns:
            owners.setdefault(text, []).append("a text column")
        for task in self.tasks:
            owners.setdefault(task, []).append(f"the task {task}")
            owners.setdefault(probability_column(task), []).append(f"the probability of {task}")
        told = {*self.text_columns} & {*self.label_columns.values()}
        problems = [
            f"data.label_subset: {' and '.join(those)} would both be the column {name!r} of predict's"
            " answers; rename one of them (data.label_columns says which column a task reads)"
            for name, those in owners.items()
            if len(those) > 1 and name not in told
        ]
        return problems + [
            f"data.label_subset: the task {picture}_{task} would share a picture with the task {task};"
            " rename one of them (data.label_columns says which column a task reads)"
            for task in self.tasks
            for picture in ["label_scores" if task in self.multi_label_tasks else "confusion"]
            if f"{picture}_{task}" in self.tasks
        ]


def probability_column(task: str) -> str:
    """Where an answer says how probable the label of a task is."""
    return f"{task}_probability"


READ_TOGETHER = (
    "task_type",
    "data.label_subset",
    "data.label_columns",
    "data.text_column",
    "data.multi_label",
    "data.label_separator",
    "train.loss_weight",
    "train.class_weight",
    "train.save_strategy",
    "train.early_stopping_epochs",
    "train.micro_batch_size",
    "train.batch_size",
)
"""The settings that RunConfig's rules across sections read."""


def data_paths(config: RunConfig) -> dict[str, Path]:
    """The files a run reads, by setting."""
    data = config.data
    named = {
        "data.raw_data_path": data.raw_data_path,
        "data.validation_path": data.validation_path,
        "data.test_path": data.test_path,
        "data.global_label_map": data.global_label_map,
    }
    return {setting: Path(path) for setting, path in named.items() if path is not None}
