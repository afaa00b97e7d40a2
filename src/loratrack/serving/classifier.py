"""A trained model in use: texts in, a label and its probability for each task out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loratrack import data
from loratrack.bases import base as bases
from loratrack.config import RunConfig
from loratrack.data import LabelMap
from loratrack.errors import DataError, UserError
from loratrack.model import bundle
from loratrack.model import probe as probes
from loratrack.model.batch import Sequences
from loratrack.model.network import Network
from loratrack.model.passes import predict
from loratrack.model.probe import PROBE, computing_place

EXACT_ON = "cpu"
"""Where the same shapes give the same bits; elsewhere sums may be taken in another order."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest difference of a logit computed elsewhere, relative to the largest logit."""
MAX_SHOWN = 10


@dataclass(frozen=True)
class Prediction:
    label: str
    probability: float


class Classifier:
    """A bundle, loaded: its base and tokenizer are the ones it was trained on, or it is refused.

    Thread safety: any number of threads may ask; they are answered one after another.
    """

    def __init__(self, folder: Path, notice: Callable[[str], None] = lambda text: None) -> None:
        self.network: Network
        self.config: RunConfig
        self.network, base, self.config, labels = bundle.load(folder, notice)
        self.label_map = LabelMap.from_dict(labels)
        self._lock = threading.Lock()
        self._tokenizer = bases.load_tokenizer(base, trust_remote_code=self.config.model.trust_remote_code)

    def answer(self, columns: Mapping[str, Sequence[str]]) -> list[dict[str, Prediction]]:
        """For each row the answer of each task; `columns` holds the text columns of the training data."""
        names = self.config.text_columns
        if missing := [name for name in names if name not in columns]:
            raise DataError(
                f"must have the text column(s) {list(names)}, missing {missing}, got {list(columns)}"
            )
        texts = [columns[name] for name in names]
        if not texts[0]:
            return []
        _refuse_rows_without_text(texts)
        logits = self.logits(data.encode_texts(texts, self._tokenizer, self.config.data.max_len))
        by_task = self.network.heads[bundle.MEMBER].split(logits)
        tasks = [self._choose(task.labels, by_task[task.name]) for task in self.label_map.tasks]
        return [dict(zip(self.config.tasks, row, strict=True)) for row in zip(*tasks, strict=True)]

    def logits(self, rows: Sequences) -> Tensor:
        with self._lock:  # a pass leaves its routing in the network
            return predict(self.network, rows, [bundle.MEMBER])[bundle.MEMBER]

    @staticmethod
    def _choose(labels: Sequence[str], logits: Tensor) -> list[Prediction]:
        best = torch.softmax(logits, dim=-1).max(dim=-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Prediction(labels[index], value) for index, value in pairs]


def _refuse_rows_without_text(texts: Sequence[Sequence[str]]) -> None:
    empty = [row for row, cells in enumerate(zip(*texts, strict=True)) if not any(map(str.strip, cells))]
    if empty:
        shown = ", ".join(map(str, empty[:MAX_SHOWN])) + (", …" if len(empty) > MAX_SHOWN else "")
        raise DataError(f"a text is needed in each row, got none in {len(empty)} (counted from 0: {shown})")


def check_reload(folder: Path, rows: Sequences, expected: Tensor) -> None:
    """Load the model from its files and compare its logits with those at the end of the training."""
    _compare(folder, Classifier(folder), rows, expected, is_same_place=True)


def check_probe(folder: Path) -> None:
    """The same with the rows and logits that lie in the bundle; one without them is refused.

    Where the logits were computed, on the CPU, every bit must be the same; elsewhere they must be close.
    """
    file = folder / PROBE
    if not file.is_file():
        raise UserError(
            f"{folder}: keeps no {PROBE}, so nobody can tell whether it is still the model that was trained;"
            " train it again"
        )
    classifier = Classifier(folder)  # finds every byte unchanged, those of the probe too
    probe = probes.load(file)
    is_same_place = probe.computed_on == computing_place(classifier.network.device)
    _compare(folder, classifier, probe, probe.logits, is_same_place)


def _compare(
    folder: Path, classifier: Classifier, rows: Sequences, expected: Tensor, is_same_place: bool
) -> None:
    logits, network = classifier.logits(rows), classifier.network
    if logits.shape != expected.shape:
        raise UserError(
            f"{folder}: the saved model gives {list(logits.shape)} logits, the trained one gave"
            f" {list(expected.shape)}; it is not fit for use"
        )
    worst = float((logits - expected).abs().max())
    is_exact = is_same_place and network.device.type == EXACT_ON
    allowed = 0.0 if is_exact else TOLERANCE[network.dtype] * float(expected.abs().max())
    if not worst <= allowed:
        raise UserError(
            f"{folder}: the saved model does not give the logits of the trained one (difference {worst:.3g},"
            f" allowed {allowed:.3g}); it is not fit for use"
        )
