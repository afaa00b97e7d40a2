"""From which probability on a label of a multi-label task is predicted; kept with the model that was tuned.

thresholds.json    {"topics": 0.37}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from loratrack.disk import write_json
from loratrack.errors import UserError
from loratrack.places import THRESHOLDS

UNTUNED = 0.5
"""Of a model whose training was broken off, and that was tuned on nothing."""
SHAPE = TypeAdapter(dict[str, Annotated[float, Field(ge=0, le=1)]], config=ConfigDict(strict=True))


def reached(logits: Tensor, threshold: float) -> Tensor:
    """True for each label that is predicted."""
    return torch.sigmoid(logits).double() >= threshold


def save(thresholds: Mapping[str, float], folder: Path) -> None:
    """Where there is no multi-label task, there is no file."""
    if thresholds:
        write_json(folder / THRESHOLDS, dict(thresholds))


def load(folder: Path, tasks: Iterable[str]) -> dict[str, float]:
    """The threshold of each of these tasks; UserError where the file holds something else."""
    file = folder / THRESHOLDS
    if not file.exists():
        return dict.fromkeys(tasks, UNTUNED)
    try:
        content = SHAPE.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else error.strerror
        raise UserError(
            f"{file}: must give each multi-label task a threshold between 0 and 1 ({first}); restore the"
            " run's artifacts"
        ) from None
    if set(content) != set(tasks):
        raise UserError(
            f"{file}: must have the multi-label tasks {sorted(tasks)}, got {sorted(content)}; restore the"
            " run's artifacts"
        )
    return content
