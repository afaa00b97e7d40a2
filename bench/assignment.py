"""What one process of the benchmark is asked to do, and what it answers: one JSON text each."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Workload(Frozen):
    """Files that ours and the peers read alike."""

    name: str
    train: str
    validation: str
    test: str | None
    """Scored at the end of a whole training."""
    columns: dict[str, str]
    """The label column of each task."""
    max_len: int = 128
    base: str = "minilm"
    """As `model.arch` names it."""


class Recipe(Frozen):
    """One training, the same for ours and for the peers; LoRA lies on query and value."""

    seed: int = 42
    lr: float = 2e-3
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    batch_size: int = 32
    epochs: int = 3
    warmup_share: float = 0.06
    weight_decay: float = 0.01
    precision: str = "auto"
    """Of ours alone: a peer has the one of its variant."""


class Gate(Frozen):
    """Where several processes wait for each other before they are measured."""

    folder: str
    parties: int


class Assignment(Frozen):
    workload: Workload
    recipes: tuple[Recipe, ...]
    variant: str
    """Ours: the layout. A peer: padded, dynamic or grouped."""
    together: bool = False
    """One cohort of all recipes instead of one training after the other."""
    warm_up_steps: int
    steps: int | None
    """Steps measured of each training; None: whole trainings, and their test metrics."""
    gate: Gate | None = None


class Answer(Frozen):
    seconds: float
    """Of the measured steps: no import, no loading, no evaluation."""
    examples: int
    tokens: int
    """Real tokens; padding is not counted."""
    memory_bytes: int
    """The most that the process ever held: on the GPU where it trained on one, else resident."""
    linear_weights: int
    precision: str
    metrics: tuple[dict[str, float], ...] = ()
    notices: tuple[str, ...] = ()


def total(answers: Sequence[Answer]) -> Answer:
    """Of trainings that ran one after the other in this process."""
    return answers[-1].model_copy(
        update={
            "seconds": sum(answer.seconds for answer in answers),
            "examples": sum(answer.examples for answer in answers),
            "tokens": sum(answer.tokens for answer in answers),
            "metrics": tuple(each for answer in answers for each in answer.metrics),
            "notices": tuple(dict.fromkeys(line for answer in answers for line in answer.notices)),
        }
    )
