"""The `train` section: how it is learned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, Tag, model_validator

from loratrack.config.fields import Factor, NotEmpty, Section, Seed, Share, Size, Weight, one_shape_of

LossWeight = Annotated[
    Annotated[tuple[Weight, ...], Tag("<list>")] | Annotated[dict[str, Weight], Tag("<mapping>")],
    one_shape_of("must be a list of weights in the order of the tasks, or a mapping of tasks to weights"),
]

AUTO = "auto"
MINUTES_OF_A_MONTH = 31 * 24 * 60
LearningRate = Annotated[
    Annotated[Literal["auto"], Tag("<word>")] | Annotated[PositiveFloat, Tag("<number>")],
    Discriminator(lambda value: "<word>" if value == AUTO else "<number>"),
]

BALANCED: Literal["balanced"] = "balanced"
_Balanced = Annotated[Literal["balanced"], Tag("<word>")]
LabelWeights = Annotated[dict[NotEmpty, Factor], Tag("<mapping>")]


def _weight_shape(value: object) -> str:
    return "<mapping>" if isinstance(value, dict) else "<word>" if value == BALANCED else "<number>"


ClassWeight = Annotated[
    _Balanced
    | Annotated[
        dict[
            NotEmpty,
            Annotated[
                Annotated[Factor, Tag("<number>")] | _Balanced | LabelWeights, Discriminator(_weight_shape)
            ],
        ],
        Tag("<mapping>"),
    ],
    one_shape_of(
        "must be `balanced`, a mapping of labels to weights, or a mapping of tasks to one of these", BALANCED
    ),
]


class Train(Section):
    batch_size: Size = 32
    micro_batch_size: Size | None = None
    """Examples in one forward pass; the gradients of a batch are summed over its micro-batches."""
    lr: LearningRate = "auto"
    """Peak rate; `auto`: by the base and by what is trained of it, see `training/rate.py`."""
    optimizer: Literal["adamw", "adam", "sgd", "lion", "adafactor"] = "adamw"
    epochs: Size = 3
    max_steps: Size | None = None
    """Ends the training after so many steps of the optimizer, within an epoch too."""
    eval_steps: Size | None = None
    """Validate after every so many steps, besides the end of each epoch."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_share: Share = 0.06
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: Factor | None = 1.0
    loss_weight: LossWeight | None = None
    class_weight: ClassWeight | None = None
    """Of each label in its task's loss; labels that are left out weigh 1."""
    label_smoothing: Share = 0.0
    focal_gamma: Annotated[float, Field(ge=0, le=100)] = 0.0
    """How much less a row counts that is right already; 0: the cross-entropy itself."""
    save_strategy: str = "best_avg_f1"
    """`last`, or `best_<metric>`; with one task `avg_f1` is its `f1`."""
    early_stopping_epochs: Size | None = None
    """Stop after this many epochs without a better `save_strategy` metric."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    layout: Literal["auto", "packed", "padded"] = "auto"
    """How sequences lie in a step; `auto` measures both once at the start, or packs on a GPU in bf16."""
    gradient_checkpointing: bool = False
    log_steps: Size = 10
    """Read the loss back, check it and show it every so many steps."""
    checkpoint_minutes: Annotated[PositiveFloat, Field(le=MINUTES_OF_A_MONTH)] | None = 5.0
    """How often what was trained is saved, so that a killed run goes on; null: at the end of each epoch."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    """CPU threads of torch; null: torch's own number, or 1 where that is clearly faster."""
    seed: Seed = 42

    @model_validator(mode="after")
    def _auto_knows_the_optimizer(self) -> Train:
        if self.optimizer == "sgd" and self.lr == AUTO:
            raise ValueError("lr auto has no rate for optimizer sgd; write a number, such as lr: 0.1")
        return self

    @property
    def peak_rate(self) -> float:
        """The number that `lr` is, or that stands in the place of `auto` since the training began."""
        assert isinstance(self.lr, float), "session.enter puts a number in the place of auto"
        return self.lr
