"""A trained model in use: texts in, a label and its probability for each task out."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from loratrack import data
from loratrack.bases import base as bases
from loratrack.config import RunConfig
from loratrack.data import LabelMap, TaskLabels
from loratrack.errors import DataError, UserError
from loratrack.model import bundle, thresholds
from loratrack.model import probe as probes
from loratrack.model.batch import Sequences
from loratrack.model.network import Network
from loratrack.model.passes import predict
from loratrack.model.probe import computing_place
from loratrack.places import PROBE

EXACT_ON = "cpu"
"""Equal shapes give equal bits there; elsewhere sums may be taken in another order."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest difference of a logit computed elsewhere, relative to the largest logit."""
MAX_LISTED = 10
ADAPTER_NAME = re.compile(rf"(lora_[AB])\.{bundle.MEMBER}\.")
"""PEFT puts the adapter's name into its parameters' names, and leaves it out of its files."""


@dataclass(frozen=True)
class Prediction:
    label: str
    """Of a multi-label task its labels as a file has them, joined by `data.label_separator`."""
    probability: float
    """Of a multi-label task that it is exactly these labels, taking them for independent."""
    labels: tuple[str, ...] = ()
    """Of a multi-label task, in the order of the task; there may be none."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of a multi-label task, of each label it has."""


class Predictions(dict[str, Prediction]):
    """The prediction of each task for one text; that of a model with one task also without naming it."""

    @property
    def label(self) -> str:
        return self._only().label

    @property
    def probability(self) -> float:
        return self._only().probability

    @property
    def labels(self) -> tuple[str, ...]:
        return self._only().labels

    @property
    def probabilities(self) -> Mapping[str, float]:
        return self._only().probabilities

    def _only(self) -> Prediction:
        if len(self) != 1:
            raise AttributeError(f"choose one of the tasks {list(self)}, such as [{next(iter(self))!r}]")
        return next(iter(self.values()))


@dataclass(frozen=True)
class Parameter:
    name: str
    """As PEFT writes it to its files."""
    shape: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Parameters:
    """What was trained; printed, it is a table."""

    trainable: tuple[Parameter, ...]
    num_total: int

    @property
    def num_trainable(self) -> int:
        return sum(parameter.count for parameter in self.trainable)

    def __str__(self) -> str:
        width = max(len(parameter.name) for parameter in self.trainable)
        lines = [
            f"{each.name:<{width}}  {' × '.join(map(str, each.shape)):>14}  {each.count:>12,}"
            for each in self.trainable
        ]
        share = 100 * self.num_trainable / self.num_total
        lines.append(f"trainable: {self.num_trainable:,} of {self.num_total:,} parameters ({share:.2f} %)")
        return "\n".join(lines)


class Classifier:
    """A bundle, loaded: its base and tokenizer are the ones it was trained on, or it is refused.

        classifier(["will it rain", "book a table"])        # a list of Predictions
        classifier({"question": [...], "answer": [...]})    # where the model reads several columns
        classifier.classify("will it rain").label

    `trusted`: the bases, by sha256, whose code may run.

    Thread safety: any number of threads may ask; they are answered one after another.
    """

    def __init__(
        self,
        folder: Path,
        notice: Callable[[str], None] = lambda text: None,
        trusted: frozenset[str] = frozenset(),
    ) -> None:
        self.network: Network
        self.config: RunConfig
        self.network, base, self.config, labels = bundle.load(folder, notice, trusted)
        self.label_map = LabelMap.from_dict(labels, self.config.multi_label_tasks)
        self.thresholds = thresholds.load(folder, self.config.multi_label_tasks)
        self._lock = threading.Lock()
        self._tokenizer = bases.load_tokenizer(base)

    def __call__(self, texts: Sequence[str] | Mapping[str, Sequence[str]]) -> list[Predictions]:
        """The predictions for each text, in their order; a mapping holds the columns of the training data."""
        if isinstance(texts, str):
            raise DataError(f"must be a list of texts, got one text {texts!r}; classify() takes a single one")
        if isinstance(texts, Mapping):
            return self.answer(texts)
        names = self.config.text_columns
        if len(names) > 1:
            raise DataError(f"the model reads {len(names)} columns, {list(names)}: give a mapping of columns")
        return self.answer({names[0]: list(texts)})

    def classify(self, text: str | Mapping[str, str]) -> Predictions:
        """The predictions for one text, or for one row of a model that reads several columns."""
        if isinstance(text, Mapping):
            return self.answer({name: [cell] for name, cell in text.items()})[0]
        return self([text])[0]

    def answer(self, columns: Mapping[str, Sequence[str]]) -> list[Predictions]:
        """The predictions for each row; `columns` holds the text columns of the training data."""
        names = self.config.text_columns
        if missing := [name for name in names if name not in columns]:
            raise DataError(
                f"must have the text columns {list(names)}, missing {missing}, got {list(columns)}"
            )
        texts = [columns[name] for name in names]
        if not texts[0]:
            return []
        empty = [row for row, cells in enumerate(zip(*texts, strict=True)) if not any(map(str.strip, cells))]
        if empty:
            listed = ", ".join(map(str, empty[:MAX_LISTED])) + (", …" if len(empty) > MAX_LISTED else "")
            raise DataError(
                f"a text is needed in each row, got none in {len(empty)} (counted from 0: {listed})"
            )
        max_len = self.config.data.max_len
        max_len = min(max_len, self.network.max_tokens or max_len)
        logits = self.logits(data.encode_texts(texts, self._tokenizer, max_len))
        if not logits.isfinite().all():
            raise UserError("the model gives logits that are no numbers; its weights or its base are damaged")
        logits_by_task = self.network.heads[bundle.MEMBER].split(logits)
        rows = [Predictions() for _ in texts[0]]
        for name, task in zip(self.config.tasks, self.label_map.tasks, strict=True):
            if task.is_multi_label:
                told = self._several_labels(task, logits_by_task[name])
                for row, prediction in zip(rows, told, strict=True):
                    row[name] = prediction
                continue
            best = torch.softmax(logits_by_task[task.name], dim=-1).max(dim=-1)
            for row, index, value in zip(rows, best.indices.tolist(), best.values.tolist(), strict=True):
                row[name] = Prediction(task.labels[index], value)
        return rows

    def _several_labels(self, task: TaskLabels, logits: Tensor) -> Iterator[Prediction]:
        are_told = thresholds.reached(logits, self.thresholds[task.name])
        together = F.logsigmoid(torch.where(are_told, logits, -logits)).sum(dim=-1).exp()
        numbers = zip(are_told.tolist(), torch.sigmoid(logits).tolist(), together.tolist(), strict=True)
        for is_told, probabilities, probability in numbers:
            labels = tuple(compress(task.labels, is_told))
            by_label = dict(zip(task.labels, probabilities, strict=True))
            text = self.config.data.label_separator.join(labels)
            yield Prediction(text, probability, labels, by_label)

    def logits(self, rows: Sequences) -> Tensor:
        with self._lock:  # a pass leaves its routing in the network
            return predict(self.network, rows, [bundle.MEMBER])[bundle.MEMBER]

    def parameters(self) -> Parameters:
        """What was trained, by name and shape, and how many parameters there are in all."""
        adapter = self.network.adapter_parameters(bundle.MEMBER)
        heads = self.network.heads[bundle.MEMBER].by_task()
        named: dict[str, Tensor] = {ADAPTER_NAME.sub(r"\1.", name): value for name, value in adapter.items()}
        named |= {f"heads.{name}": value for name, value in heads.items()}
        rows = [Parameter(name, tuple(value.shape), value.numel()) for name, value in named.items()]
        return Parameters(tuple(rows), self.network.parameter_counts(bundle.MEMBER)[1])


def check_reload(folder: Path, base_sha256: str, rows: Sequences, expected: Tensor) -> None:
    """Load the model from its files and compare its logits with those at the end of the training.

    The code of its base, if it brings any, has just run for the training, and runs for this check too.
    """
    classifier = Classifier(folder, trusted=frozenset({base_sha256}))
    _compare(folder, classifier, rows, expected, is_same_place=True)


def check_probe(folder: Path, trusted: frozenset[str] = frozenset()) -> None:
    """The same with the rows and logits that lie in the bundle; one without them is refused.

    Where the logits were computed, on the CPU, every bit must be the same; elsewhere they must be close.
    """
    file = folder / PROBE
    if not file.is_file():
        raise UserError(
            f"{folder}: has no {PROBE}, so nobody can tell whether it is still the model that was trained;"
            " train it again"
        )
    # checks the sha256 of every file, the probe's too
    classifier = Classifier(folder, trusted=trusted)
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
    difference = float((logits - expected).abs().max())
    is_exact = is_same_place and network.device.type == EXACT_ON
    allowed = 0.0 if is_exact else TOLERANCE[network.dtype] * float(expected.abs().max())
    if not difference <= allowed:  # written so that NaN is refused
        raise UserError(
            f"{folder}: the saved model does not give the logits of the trained one (difference"
            f" {difference:.3g}, allowed {allowed:.3g}); it is not fit for use"
        )
