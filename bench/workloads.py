"""What is trained on: short texts, longer Chinese ones, and texts of one length."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from bench.assignment import Workload
from loratrack.bases.base import resolve

ROOT = Path(__file__).parents[1]
CLINC = ROOT / "projects" / "clinc" / "data"
SHARED = "LORATRACK_SHARED_DATA"
SHOPPING = "online_shopping_10_cats"
BOTH = {"domain": "label_domain", "intent": "label_intent"}


def clinc(columns: dict[str, str] = BOTH) -> Workload:
    """15,000 short English requests, 10 domains and 150 intents."""
    train, validation, test = (str(CLINC / f"{part}.csv") for part in ("train", "dev", "test"))
    return Workload(name="clinc", train=train, validation=validation, test=test, columns=columns)


def shopping() -> Workload | None:
    """8,900 Chinese reviews, 10 categories and 2 sentiments; None where the data is not at hand."""
    folder = shared_folder() / SHOPPING
    if not (folder / "train.csv").is_file():
        return None
    columns = {"category": "label_category", "sentiment": "label_sentiment"}
    train, test = str(folder / "train.csv"), str(folder / "test.csv")
    return Workload(name="shopping", train=train, validation=test, test=None, columns=columns)


def shared_folder() -> Path:
    """Data that may be measured on, but not be shipped."""
    return Path(os.environ.get(SHARED) or ROOT.parent / "shared" / "data")


def uniform(folder: Path) -> Workload:
    """The requests of CLINC150 that have the most frequent number of tokens, and no others."""
    source = clinc()
    rows = _read(Path(source.train))
    tokens = AutoTokenizer.from_pretrained(resolve("minilm").folder)([row[0] for row in rows[1:]])[
        "input_ids"
    ]
    kept = most_frequent([len(ids) for ids in tokens])
    train = folder / "uniform.csv"
    _write(train, [rows[0], *(rows[1 + number] for number in kept)])
    return Workload(name="uniform", train=str(train), validation=source.validation, test=None, columns=BOTH)


def most_frequent(lengths: Sequence[int]) -> list[int]:
    """Where the most frequent length stands."""
    (length, _), *_ = Counter(lengths).most_common(1)
    return [number for number, each in enumerate(lengths) if each == length]


def _read(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as source:
        return list(csv.reader(source))


def _write(file: Path, rows: Sequence[Sequence[str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as target:
        csv.writer(target).writerows(rows)
