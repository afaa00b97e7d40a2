"""What a model answered, kept small: from it the pictures of a run can be drawn when somebody looks.

{"intent": {"labels": ["book", "cancel"], "answers": [[0, 0, 41], [0, 1, 3], [1, 1, 56]]}}

Each entry is a true label, a predicted one, and how many rows have this pair; with several labels to a row
they are lists of labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratrack.views import curves
from loratrack.views.curves import Answers

Json = dict[str, dict[str, list[Any]]]


def as_json(answers: Mapping[str, Answers]) -> Json:
    content: Json = {}
    for task, (labels, truth, predicted) in answers.items():
        pairs = np.column_stack((truth, predicted))
        distinct, counts = np.unique(pairs, axis=0, return_counts=True)
        entries = [
            [*(_plain(side, truth.ndim) for side in np.split(pair, 2)), int(count)]
            for pair, count in zip(distinct, counts, strict=True)
        ]
        content[task] = {"labels": list(labels), "answers": entries}
    return content


def from_json(text: str) -> dict[str, Answers]:
    """The same answers, sorted; ValueError, TypeError or LookupError where somebody has changed the file."""
    answers: dict[str, Answers] = {}
    for task, content in json.loads(text).items():
        labels, entries = content["labels"], content["answers"]
        counts = [int(count) for *_, count in entries]
        sides = [np.array([_filled(entry[side], len(labels)) for entry in entries]) for side in (0, 1)]
        truth, predicted = (np.repeat(side, counts, axis=0) for side in sides)
        answers[task] = (labels, truth, predicted)
    return answers


def draw(folder: Path, metrics: str, answers: str | None) -> str | None:
    """The pictures of a run from its `metrics.json` and `answers.json`, as at the end of a training.

    Gives a notice where characters of the labels cannot be drawn. ValueError, TypeError or LookupError where
    somebody has changed a file.
    """
    content = json.loads(metrics)
    history = {
        int(name.removeprefix("epoch_")): values
        for name, values in content.items()
        if name.startswith("epoch_")
    }
    best_epoch = content["best"]["epoch"] if "best" in content else None
    return curves.draw(folder, history, from_json(answers) if answers else {}, best_epoch=best_epoch)


def _plain(side: NDArray[Any], num_dimensions: int) -> int | list[int]:
    return int(side[0]) if num_dimensions == 1 else [int(label) for label in np.flatnonzero(side)]


def _filled(side: int | list[int], num_labels: int) -> Any:
    if isinstance(side, int):
        return side
    return np.isin(np.arange(num_labels), side).astype(np.int8)
