"""The schema: every setting of a run, its type, bounds and only default.

Scalars arrive as the text that stands in the YAML file, and the types here decide what they mean:
`2e-5` becomes a number where a number is asked for, `yes` and `007` stay text where a label is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

SINGLE_TASK = "label"
"""The name of the only task of a `single_cls` run, and its default column."""

Share = Annotated[float, Field(ge=0, lt=1)]
TaskType = Literal["single_cls", "double_cls", "multi_cls"]
Subset = Literal["all"] | tuple[str, ...]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Data(Section):
    raw_data_path: str
    validation_path: str | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the raw data that is split off when `validation_path` names no file."""
    test_path: str | None = None
    global_label_map: str | None = None
    label_columns: dict[str, str] = {}
    text_column: str | tuple[str, ...] = "text"
    label_subset: Subset | dict[str, Subset] | None = None
    unknown_label: Literal["error", "drop"] = "error"
    max_len: Annotated[int, Field(ge=4)] = 128
    """Tokens of one example at most, special tokens counted."""
    data_process_version: str = "v1"

    @field_validator("text_column")
    @classmethod
    def _names_a_column(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        columns = (value,) if isinstance(value, str) else value
        if not columns or len(set(columns)) != len(columns) or not all(columns):
            raise ValueError("must name one column, or several different ones")
        return value

    @field_validator("label_subset")
    @classmethod
    def _lists_labels_once(
        cls, value: Subset | dict[str, Subset] | None
    ) -> Subset | dict[str, Subset] | None:
        for task, subset in value.items() if isinstance(value, dict) else [(SINGLE_TASK, value)]:
            if isinstance(subset, tuple) and len(subset) < 2:
                raise ValueError(f"{task}: a task needs at least two labels, got {list(subset)!r}")
            if isinstance(subset, tuple) and len(set(subset)) != len(subset):
                twice = sorted({label for label in subset if subset.count(label) > 1})
                raise ValueError(f"{task}: listed more than once: {twice}")
        return value


class Lora(Section):
    rank: PositiveInt = Field(default=16, validation_alias=AliasChoices("rank", "r"))
    alpha: PositiveFloat = Field(default=32, validation_alias=AliasChoices("alpha", "lora_alpha"))
    dropout: Share = Field(default=0.05, validation_alias=AliasChoices("dropout", "lora_dropout"))
    target_modules: Literal["auto", "all-linear"] | tuple[str, ...] = "auto"
    allow_partial: bool = False
    """Accept target modules that exist in some layers only."""


class Model(Section):
    arch: str = "minilm"
    """A hub name, a local folder, `minilm` (the built-in), or models:/name@alias."""
    use_lora: bool = True
    trust_remote_code: bool = False
    pooling: Literal["cls", "mean"] = "cls"
    lora: Lora = Field(default_factory=Lora)


class Train(Section):
    batch_size: PositiveInt = 32
    micro_batch_size: PositiveInt | None = None
    """Examples in one forward pass; the gradients of a batch are summed over its micro-batches."""
    lr: PositiveFloat = 2e-5
    epochs: PositiveInt = 3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_share: Share = 0.06
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: PositiveFloat | None = 1.0
    loss_weight: tuple[NonNegativeFloat, ...] | dict[str, NonNegativeFloat] | None = None
    save_strategy: Annotated[str, Field(pattern=r"^(last|best_\w+)$")] = "best_avg_f1"
    """`last`, or `best_<metric>`; with one task `avg_f1` is its `f1`."""
    early_stopping_epochs: PositiveInt | None = None
    """Stop after this many epochs without a better `save_strategy` metric."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    layout: Literal["auto", "packed", "padded"] = "auto"
    """How sequences of different lengths lie in a step; `auto` measures once at the start."""
    gradient_checkpointing: bool = False
    log_steps: PositiveInt = 10
    """Read the loss back, check it and show it every so many steps."""
    threads: PositiveInt | None = None
    """CPU threads of torch; null leaves torch's own choice, which the run records."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42


class Resources(Section):
    priority: Literal["low", "medium", "high"] = "medium"


class RunConfig(Section):
    """What a run is. `config_copy.yaml` holds exactly this, and gives the run again."""

    exp_id: Annotated[str, Field(pattern=r"^[\w][\w.\-]*$", max_length=200)]
    description: str = ""
    base_config: str | None = None
    """The parent this config was merged from; kept for the record."""
    task_type: TaskType = "single_cls"
    register_as: str | bool = Field(True, alias="register")
    """Name in the model registry; true: the project's name; false: no version is made."""
    data: Data
    model: Model = Model()
    train: Train = Train()
    resources: Resources = Resources()

    @field_validator("register_as")
    @classmethod
    def _true_and_false_are_no_names(cls, value: str | bool) -> str | bool:
        return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in file order."""
        subset = self.data.label_subset
        return tuple(subset) if isinstance(subset, dict) else (SINGLE_TASK,)

    @property
    def subsets(self) -> dict[str, Subset]:
        """Labels of each task, or `all`."""
        subset = self.data.label_subset
        return dict(subset) if isinstance(subset, dict) else {SINGLE_TASK: subset or "all"}

    @property
    def label_columns(self) -> dict[str, str]:
        return {task: self.data.label_columns.get(task, task) for task in self.tasks}

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
        return weights if isinstance(weights, dict) else dict(zip(self.tasks, weights, strict=True))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of one evaluation, in the order they are shown."""
        if len(self.tasks) == 1:
            return ("accuracy", "f1")
        each = [f"{task}_{measure}" for task in self.tasks for measure in ("accuracy", "f1")]
        return (*each, "avg_accuracy", "avg_f1")

    @property
    def best_metric(self) -> str | None:
        """The metric that decides which epoch is kept; None keeps the last."""
        if self.train.save_strategy == "last":
            return None
        name = self.train.save_strategy.removeprefix("best_")
        return name.removeprefix("avg_") if len(self.tasks) == 1 else name

    @model_validator(mode="after")
    def _tasks_fit_the_task_type(self) -> RunConfig:
        subset, kind = self.data.label_subset, self.task_type
        if kind == "single_cls" and isinstance(subset, dict):
            raise ValueError(
                f"data.label_subset has {len(subset)} tasks but task_type is single_cls;"
                " write one list, or task_type: double_cls | multi_cls"
            )
        if kind != "single_cls" and not isinstance(subset, dict):
            raise ValueError(f"data.label_subset must map each task to its labels for task_type {kind}")
        if kind == "double_cls" and len(self.tasks) != 2:
            raise ValueError(
                f"task_type double_cls needs exactly 2 tasks in data.label_subset, got {len(self.tasks)}:"
                f" {list(self.tasks)}; multi_cls takes any number"
            )
        if kind == "multi_cls" and not self.tasks:
            raise ValueError("data.label_subset must name at least one task, got none")
        return self

    @model_validator(mode="after")
    def _columns_are_one_for_each_task(self) -> RunConfig:
        strangers = sorted(set(self.data.label_columns) - set(self.tasks))
        if strangers:
            raise ValueError(
                f"data.label_columns names no task: {strangers}; the tasks are {list(self.tasks)}"
            )
        columns = list(self.label_columns.values())
        shared = sorted({column for column in columns if columns.count(column) > 1})
        if shared:
            raise ValueError(f"data.label_columns: two tasks read one column: {shared}")
        both = sorted(set(columns) & set(self.text_columns))
        if both:
            raise ValueError(f"data: {both} is both a text column and a label column")
        return self

    @model_validator(mode="after")
    def _loss_weights_fit_the_tasks(self) -> RunConfig:
        weights, tasks = self.train.loss_weight, list(self.tasks)
        if isinstance(weights, tuple) and len(weights) != len(tasks):
            raise ValueError(f"train.loss_weight has {len(weights)} weights for {len(tasks)} tasks {tasks}")
        if isinstance(weights, dict) and sorted(weights) != sorted(tasks):
            raise ValueError(f"train.loss_weight must name each of {tasks} once, got {sorted(weights)}")
        values = list(weights.values()) if isinstance(weights, dict) else list(weights or [1.0])
        if sum(values) <= 0:
            raise ValueError(f"train.loss_weight must not be all 0, got {values}")
        return self

    @model_validator(mode="after")
    def _best_metric_exists(self) -> RunConfig:
        if self.best_metric is not None and self.best_metric not in self.metric_names:
            choices = ", ".join(f"best_{name}" for name in self.metric_names)
            raise ValueError(
                f"train.save_strategy: no such metric, got {self.train.save_strategy!r};"
                f" choices: last, {choices}"
            )
        return self

    @model_validator(mode="after")
    def _micro_batch_divides_the_batch(self) -> RunConfig:
        micro, batch = self.train.micro_batch_size, self.train.batch_size
        if micro is not None and micro > batch:
            raise ValueError(
                f"train.micro_batch_size ({micro}) must not be larger than train.batch_size ({batch})"
            )
        return self


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
