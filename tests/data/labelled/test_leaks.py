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
    tested = {tuple(ids) for ids in uncased([text.upper() for text in TEXTS[:20]])["input_ids"]}
    trained = uncased(corpus.train.columns[0])["input_ids"]
    kept = [tuple(ids) for ids in trained if tuple(ids) not in held_out]
    num_left_out = len(corpus.train) - len(kept)
    assert num_left_out > 10
    assert rows(cold.train) == kept
    assert (cold.train.labels == corpus.train.labels[cold.kept["train"]]).all()
    assert not set(rows(cold.train)) & {*rows(cold.validation), *rows(cold.test)}
    first = next(text for text in corpus.train.columns[0] if text in TEXTS[:20])
    assert num_left_out == sum(tuple(ids) in tested for ids in trained)
    assert notices[-1] == (
        f"{num_left_out} training rows with the tokens of a test row, so the same text to this base:"
        f" {first!r} and {first.upper()!r}; training leaves them out"
    )
    report = cold.report
    assert report["rows"] == {"train": len(kept), "validation": len(cold.validation), "test": 20}
    assert sum(counts["train"] for counts in report["labels"]["label"].values()) == len(kept)
    same = {"rows_of": "train", "also_in": "test", "rows": num_left_out, "left_out": True}
    assert report["same_tokens"][-1] == same

    warm, again = encoded(settings, uncased)
    assert (rows(warm.train), again, warm.report) == (rows(cold.train), notices, report)
    assert np.array_equal(warm.train.labels, cold.train.labels)


def test_a_split_holds_out_no_copy(config: MakeConfig, uncased: Any) -> None:
    settings = config(csv([*TEXTS, *(text.title() for text in TEXTS)]), validation_share=0.25)
    made, notices = encoded(settings, uncased)
    assert not set(rows(made.train)) & set(rows(made.validation))
    assert "training rows with the tokens of a validation row" in notices[-1]


def test_a_validation_split_asks_nothing_that_the_test_asks(
    config: MakeConfig, uncased: Any, tmp_path: Path
) -> None:
    """The epoch that is kept is chosen by the validation rows: none of them may be a test row."""
    (tmp_path / "test.csv").write_text(csv([text.upper() for text in TEXTS[:20]]))
    settings = config(csv(TEXTS), test_path=str(tmp_path / "test.csv"), validation_share=0.5)
    corpus = read(settings)
    tested = {tuple(ids) for ids in uncased([text.upper() for text in TEXTS[:20]])["input_ids"]}
    split_off = [tuple(ids) for ids in uncased(corpus.validation.columns[0])["input_ids"]]
    kept = [ids for ids in split_off if ids not in tested]
    assert 0 < len(kept) < len(split_off) == 20
    made, notices = encoded(settings, uncased)
    assert rows(made.validation) == kept
    assert (made.validation.labels == corpus.validation.labels[made.kept["validation"]]).all()
    assert made.report["rows"]["validation"] == len(kept)
    num = len(split_off) - len(kept)
    assert made.report["same_tokens"][0] == {
        "rows_of": "validation", "also_in": "test", "rows": num, "left_out": True
    }  # fmt: skip
    first = next(text for text in corpus.validation.columns[0] if text in TEXTS[:20])
    assert notices[0] == (
        f"{num} validation rows with the tokens of a test row, so the same text to this base:"
        f" {first!r} and {first.upper()!r}; validation leaves them out"
    )
    assert corpus.only(made.kept).validation.columns[0] == [
        text for text in corpus.validation.columns[0] if text not in TEXTS[:20]
    ]
    (tmp_path / "test.csv").write_text(csv([text.upper() for text in TEXTS]))
    message = "exp: no validation row is left: each has the tokens of a test row, so this base cannot tell"
    with pytest.raises(DataError, match=f"^{message}"):
        encoded(settings, uncased)


def test_two_files_keep_what_both_ask(config: MakeConfig, uncased: Any, tmp_path: Path) -> None:
    (tmp_path / "valid.csv").write_text(csv(TEXTS[:6]))
    (tmp_path / "test.csv").write_text(csv([text.upper() for text in TEXTS[3:9]]))
    paths = {"validation_path": str(tmp_path / "valid.csv"), "test_path": str(tmp_path / "test.csv")}
    made, notices = encoded(config(csv(TEXTS[10:]), **paths), uncased)
    assert notices == [
        "3 validation rows with the tokens of a test row, so the same text to this base:"
        f" {TEXTS[3]!r} and {TEXTS[3].upper()!r}; both files keep them"
    ]
    assert (len(made.validation), made.kept) == (6, {})
    assert made.report["same_tokens"] == [
        {"rows_of": "validation", "also_in": "test", "rows": 3, "left_out": False}
    ]


def test_a_label_whose_training_rows_are_all_left_out_is_told(
    config: MakeConfig, uncased: Any, tmp_path: Path
) -> None:
    rare = "".join(f"{text},z\n" for text in TEXTS[:3])
    (tmp_path / "test.csv").write_text(csv(TEXTS[3:5]) + rare.upper().replace(",Z", ",z"))
    (tmp_path / "valid.csv").write_text(csv(TEXTS[5:9]) + "secret secret,z\n")
    paths = {"validation_path": str(tmp_path / "valid.csv"), "test_path": str(tmp_path / "test.csv")}
    settings = config(csv(TEXTS[9:]) + rare, **paths)
    assert read(settings).report["warnings"] == []
    made, notices = encoded(settings, uncased)
    assert notices[1:] == ["label: no training row for 1 label: ['z']"]
    assert made.report["warnings"] == notices[1:]


def test_other_texts_with_the_same_tokens_stay(config: MakeConfig, uncased: Any, tmp_path: Path) -> None:
    """Unknown words and a cut hide what is different; what stands there is compared as text."""
    long = "calm " * 30
    raw = ["calm zebra", "mild yak", f"{long} day", *TEXTS[2:]]
    (tmp_path / "test.csv").write_text(csv(["calm camel", "MILD  YAK", f"{long} note"]))
    (tmp_path / "valid.csv").write_text(csv(TEXTS[:2]))
    paths = {"validation_path": str(tmp_path / "valid.csv"), "test_path": str(tmp_path / "test.csv")}
    made, notices = encoded(config(csv(raw), max_len=16, **paths), uncased)
    same = {"rows_of": "train", "also_in": "test", "rows": 1, "left_out": True}
    assert made.report["same_tokens"] == [same]
    assert notices[-1].startswith("1 training row with the tokens of a test row")
    assert made.kept["train"].tolist() == [0, *range(2, len(raw))]


def test_a_training_that_has_nothing_else_is_refused(
    config: MakeConfig, uncased: Any, tmp_path: Path
) -> None:
    (tmp_path / "valid.csv").write_text(csv([text.upper() for text in TEXTS]))
    settings = config(csv(TEXTS), validation_path=str(tmp_path / "valid.csv"))
    with pytest.raises(
        DataError, match=r"^exp: no training row is left: each has the tokens of a held-out row"
    ):
        encoded(settings, uncased)
