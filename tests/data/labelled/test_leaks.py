"""What is one text to the base is not both trained on and asked; the tokens are plain transformers'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from loratrack.config import RunConfig
from loratrack.data import Dataset, Encoded, encode, read
from loratrack.errors import DataError

MakeConfig = Callable[..., RunConfig]
WORDS = ("calm", "mild", "loud", "take", "leave", "screen", "counter", "secret", "day", "note")
TEXTS = [f"{WORDS[n % 10]} {WORDS[n // 10]} n{n}" for n in range(40)]


@pytest.fixture(scope="module")
def uncased(sample: Any) -> Any:
    return AutoTokenizer.from_pretrained(sample.base)


def csv(texts: list[str]) -> str:
    return "".join(["text,label\n", *(f"{text},{'xy'[n % 2]}\n" for n, text in enumerate(texts))])


def encoded(config: RunConfig, tokenizer: Any) -> tuple[Dataset, list[str]]:
    notices: list[str] = []
    return encode(read(config), config, tokenizer, "uncased", notices.append), notices


def rows(part: Encoded) -> list[tuple[int, ...]]:
    return [tuple(part.tokens[start:end]) for start, end in zip(part.offsets, part.offsets[1:], strict=False)]


def test_upper_case_copies_are_left_out_of_training(config: MakeConfig, uncased: Any, tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(csv([text.upper() for text in TEXTS[:20]]))
    settings = config(csv(TEXTS), test_path=str(tmp_path / "test.csv"), validation_share=0.2)
    cold, notices = encoded(settings, uncased)
    assert cold.test is not None
    corpus = read(settings)
    asked = uncased([text for name in ("validation", "test") for text in corpus.parts[name].columns[0]])
    held_out = {tuple(ids) for ids in asked["input_ids"]}
    trained = uncased(corpus.train.columns[0])["input_ids"]
    kept = [tuple(ids) for ids in trained if tuple(ids) not in held_out]
    num_left_out = len(corpus.train) - len(kept)
    assert num_left_out > 10
    assert rows(cold.train) == kept
    assert cold.train_rows is not None
    assert (cold.train.labels == corpus.train.labels[cold.train_rows]).all()
    assert not set(rows(cold.train)) & {*rows(cold.validation), *rows(cold.test)}
    first = next(text for text in corpus.train.columns[0] if text in TEXTS[:20])
    assert notices[-1] == (
        f"{num_left_out} training rows with the tokens of a test row, so the same text to this base:"
        f" {first!r} and {first.upper()!r}; training leaves them out"
    )
    report = cold.report
    assert report["rows"] == {"train": len(kept), "validation": 8, "test": 20}
    assert sum(counts["train"] for counts in report["labels"]["label"].values()) == len(kept)
    assert report["same_tokens"] == {"test": num_left_out}

    warm, again = encoded(settings, uncased)
    assert (rows(warm.train), again, warm.report) == (rows(cold.train), notices, report)
    assert np.array_equal(warm.train.labels, cold.train.labels)


def test_a_split_holds_out_no_copy(config: MakeConfig, uncased: Any) -> None:
    settings = config(csv([*TEXTS, *(text.title() for text in TEXTS)]), validation_share=0.25)
    made, notices = encoded(settings, uncased)
    assert not set(rows(made.train)) & set(rows(made.validation))
    assert "training rows with the tokens of a validation row" in notices[-1]


def test_other_texts_with_the_same_tokens_stay(config: MakeConfig, uncased: Any, tmp_path: Path) -> None:
    """Unknown words and a cut hide what is different; what stands there is compared as text."""
    long = "calm " * 30
    raw = ["calm zebra", "mild yak", f"{long} day", *TEXTS[2:]]
    (tmp_path / "test.csv").write_text(csv(["calm camel", "MILD  YAK", f"{long} note"]))
    (tmp_path / "valid.csv").write_text(csv(TEXTS[:2]))
    paths = {"validation_path": str(tmp_path / "valid.csv"), "test_path": str(tmp_path / "test.csv")}
    made, notices = encoded(config(csv(raw), max_len=16, **paths), uncased)
    assert made.report["same_tokens"] == {"test": 1}
    assert notices[-1].startswith("1 training row with the tokens of a test row")
    assert made.train_rows is not None
    assert made.train_rows.tolist() == [0, *range(2, len(raw))]


def test_a_training_that_has_nothing_else_is_refused(
    config: MakeConfig, uncased: Any, tmp_path: Path
) -> None:
    (tmp_path / "valid.csv").write_text(csv([text.upper() for text in TEXTS]))
    settings = config(csv(TEXTS), validation_path=str(tmp_path / "valid.csv"))
    with pytest.raises(
        DataError, match=r"^exp: no training row is left: each has the tokens of a held-out row"
    ):
        encoded(settings, uncased)
