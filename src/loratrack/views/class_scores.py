"""How well each label is recognised, as a table among the files of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from loratrack import disk
from loratrack.views.curves import Answers

HEADINGS = ("task", "label", "precision", "recall", "f1", "rows")


def write(file: Path, answers: Mapping[str, Answers]) -> None:
    """A row for each label of each task: the lowest F1 first, and last the labels that no row has."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADINGS)
    for task, (labels, truth, predicted) in answers.items():
        precision, recall, f1, rows = precision_recall_fscore_support(
            truth, predicted, labels=np.arange(len(labels)), zero_division=0
        )
        for label in np.lexsort((f1, rows == 0)):
            scores = (f"{measure[label]:.6g}" for measure in (precision, recall, f1))
            writer.writerow([task, labels[label], *scores, rows[label]])
    disk.write_text(file, text.getvalue())
