from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loratrack.config import RunConfig
from loratrack.data import Dataset, cache, encode, encode_texts, read

MakeConfig = Callable[..., RunConfig]
TWO = {"task_type": "double_cls", "label_subset": {"risk": "all", "adopt": "all"}}


@pytest.fixture
def two_tasks() -> str:
    lines = [
        f"text number {number},{'xyz'[number % 3]},{'no' if number % 2 else 'yes'}" for number in range(60)
    ]
    return "\n".join(["text,risk,adopt", *lines])


def dataset(config: RunConfig, tokenizer: Any, sha256: str = "words") -> Dataset:
    return encode(read(config), config, tokenizer, sha256, lambda _: None)


def test_tokens_and_labels_stand_in_one_order(config: MakeConfig, two_tasks: str, tokenizer: Any) -> None:
    settings = config(two_tasks, **TWO)
    corpus = read(settings)
    made = encode(corpus, settings, tokenizer, "words", print)
    for part, examples in ((made.train, corpus.train), (made.validation, corpus.validation)):
        expected = encode_texts(examples.columns, tokenizer, settings.data.max_len)
        assert len(part) == len(examples) > 0
        assert (part.tokens == expected.tokens).all()
        assert (part.offsets == expected.offsets).all()
        assert (part.labels == examples.labels).all()
        assert part.token_types is None
        assert isinstance(part.tokens, np.memmap)
    assert made.test is None
    assert made.label_map == corpus.label_map
    assert made.sha256 == corpus.sha256


def test_a_second_time_nothing_is_tokenised(config: MakeConfig, two_tasks: str, tokenizer: Any) -> None:
    first = dataset(config(two_tasks, **TWO), tokenizer)
    calls = tokenizer.num_calls
    again = dataset(config(two_tasks, **TWO), tokenizer)
    assert calls > 0
    assert tokenizer.num_calls == calls
    assert (again.train.tokens == first.train.tokens).all()
    assert (again.train.labels == first.train.labels).all()
    assert again.report == first.report


def test_a_pair_keeps_its_token_types(config: MakeConfig, tokenizer: Any) -> None:
    lines = [f"title {number},body {number},{'xy'[number % 2]}" for number in range(20)]
    settings = config("\n".join(["title,body,label", *lines]), text_column=["title", "body"])
    for _ in range(2):
        made = dataset(settings, tokenizer)
        assert made.train.token_types is not None
        assert made.train.token_types.dtype == np.uint8
        assert made.train.token_types[: made.train.offsets[1]].tolist() == [0, 0, 0, 0, 1, 1]


def test_the_report_tells_lengths_before_the_cut(config: MakeConfig, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "valid.csv").write_text("text,label\nv w,x\n")
    content = "text,label\n" + "".join(f"{'word ' * count},{'xy'[count % 2]}\n" for count in range(1, 11))
    settings = config(content, validation_path=str(tmp_path / "valid.csv"), max_len=6)
    facts = dataset(settings, tokenizer).report["tokens"]
    assert facts["train"] == {
        "mean": 7.5, "median": 7.5, "p90": 11.1, "p95": 11.55, "p99": 11.91, "max": 12,
        "truncated": 6, "truncated_share": 0.6,
    }  # fmt: skip
    assert facts["validation"]["max"] == 4


def test_warnings_of_the_data_are_said(config: MakeConfig, tokenizer: Any, tmp_path: Path) -> None:
    settings = config("text,label\na,x\na,y\nb,y\nc,x\n")
    notices: list[str] = []
    encode(read(settings), settings, tokenizer, "words", notices.append)
    assert notices == [f"{tmp_path / 'raw.csv'}: 1 text stands with different labels (lines 2, 3)"]


def test_a_damaged_entry_gives_the_same_tokens_again(
    config: MakeConfig, two_tasks: str, tokenizer: Any
) -> None:
    settings = config(two_tasks, **TWO)
    first = dataset(settings, tokenizer)
    expected = first.train.tokens.tolist()
    (entry,) = cache.entries()
    file = entry.path / "train.tokens.npy"
    file.unlink()  # the first data set still maps the old file
    file.write_bytes(b"damaged")
    notices: list[str] = []
    again = encode(read(settings), settings, tokenizer, "words", notices.append)
    assert again.train.tokens.tolist() == expected
    assert len(notices) == 1
    assert "is damaged (train.tokens.npy has 7 bytes, not" in notices[0]


KEYED: dict[str, dict[str, Any]] = {
    "a changed byte in the data": {"content": lambda text: text.replace("number 7,", "Number 7,")},
    "max_len": {"max_len": 16},
    "text column": {"text_column": "copy"},
    "label columns": {"label_columns": {"risk": "risk2"}},
    "data_process_version": {"data_process_version": "v2"},
    "task_type": {"task_type": "multi_cls"},
    "order of the labels": {"label_subset": {"risk": ["z", "y", "x"], "adopt": "all"}},
    "order of the tasks": {"label_subset": {"adopt": "all", "risk": "all"}},
    "unknown_label": {"unknown_label": "drop"},
    "seed of the split": {"split_seed": 7},
    "share of the split": {"validation_share": 0.3},
    "the tokenizer": {"sha256": "another"},
}


@pytest.fixture
def wide(two_tasks: str) -> str:
    """With a second text column and a second label column that hold the same."""
    header, *lines = two_tasks.split("\n")
    copied = [f"{line},{line.split(',')[0]},{line.split(',')[1]}" for line in lines]
    return "\n".join([f"{header},copy,risk2", *copied])


@pytest.mark.parametrize("changed", KEYED)
def test_whatever_the_tokens_depend_on_makes_a_new_entry(
    config: MakeConfig, wide: str, tokenizer: Any, changed: str
) -> None:
    dataset(config(wide, **TWO), tokenizer)
    change = dict(KEYED[changed])
    content = change.pop("content", lambda text: text)(wide)
    sha256 = change.pop("sha256", "words")
    dataset(config(content, **{**TWO, **change}), tokenizer, sha256)
    assert len(cache.entries()) == 2


def test_tokens_are_paired_with_their_own_labels_however_the_rows_were_split(
    config: MakeConfig, two_tasks: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(two_tasks, **TWO)
    dataset(settings, tokenizer)

    def later(seed: object) -> np.random.Generator:
        return np.random.Generator(np.random.MT19937([7]))

    monkeypatch.setattr(np.random, "default_rng", later)  # as a release of numpy with other streams would
    made, corpus = dataset(settings, tokenizer), read(settings)
    for part, examples in ((made.train, corpus.train), (made.validation, corpus.validation)):
        assert (part.labels == examples.labels).all()
        expected = encode_texts(examples.columns, tokenizer, settings.data.max_len)
        assert (part.tokens == expected.tokens).all()
    assert len(cache.entries()) == 2


def test_a_tokenizer_of_another_class_makes_a_new_entry(
    config: MakeConfig, two_tasks: str, tokenizer: Any
) -> None:
    class Another(type(tokenizer)):  # type: ignore[misc]
        """Tokenizes in the same way."""

    for each in (tokenizer, Another()):
        dataset(config(two_tasks, **TWO), each)
    assert len(cache.entries()) == 2


@pytest.mark.parametrize("package", ["tokenizers", "transformers"])
def test_the_versions_of_what_tokenizes_are_in_the_key(
    config: MakeConfig, two_tasks: str, tokenizer: Any, package: str
) -> None:
    dataset(config(two_tasks, **TWO), tokenizer)
    (entry,) = cache.entries()
    settings = json.loads((entry.path / cache.ENTRY).read_text("utf-8"))["body"]["settings"]
    assert settings["packages"][package] == version(package)


def test_a_changed_global_id_makes_a_new_entry(
    config: MakeConfig, wide: str, tokenizer: Any, tmp_path: Path
) -> None:
    for number in (2, 3):
        ids = f'{{"risk": {{"x": 0, "y": 1, "z": {number}}}, "adopt": {{"yes": 0, "no": 1}}}}'
        (tmp_path / "map.json").write_text(ids)
        dataset(config(wide, **TWO, global_label_map=str(tmp_path / "map.json")), tokenizer)
    assert len(cache.entries()) == 2


def test_what_changes_no_token_makes_no_new_entry(
    config: MakeConfig, two_tasks: str, tokenizer: Any, tmp_path: Path
) -> None:
    valid = tmp_path / "valid.csv"
    valid.write_text("text,risk,adopt\nnew,x,no\n")
    paths = {"validation_path": str(valid)}
    dataset(config(two_tasks, **TWO, **paths), tokenizer)
    dataset(config(two_tasks, **TWO, **paths, name="renamed.csv"), tokenizer)
    settings = {"seed": 7, "split_seed": 7, "validation_share": 0.3}  # nothing is drawn, nothing split off
    dataset(config(two_tasks, **TWO, **paths, **settings), tokenizer)
    assert len(cache.entries()) == 1


def test_rows_are_the_same_in_whatever_order_the_config_names_their_labels(
    config: MakeConfig, tokenizer: Any, tmp_path: Path
) -> None:
    """Two tasks, one with any number of labels a row."""
    lines = [f"text {number},{'xyz'[number % 3]},{('a', 'a;b', 'c', '')[number % 4]}" for number in range(24)]
    held_out = tmp_path / "validation.csv"

    def sha256(risk: str, topics: str, swapped: str = "") -> str:
        rows = [line.translate(str.maketrans(swapped, swapped[::-1])) for line in lines[:12]]
        held_out.write_text("\n".join(["text,risk,topics", *rows]))
        settings = config(
            "\n".join(["text,risk,topics", *lines]),
            task_type="double_cls",
            label_subset={"risk": list(risk), "topics": list(topics)},
            multi_label=["topics"],
            validation_path=str(held_out),
        )
        return dataset(settings, tokenizer).validation_sha256

    first = sha256("xyz", "abc")
    assert sha256("zxy", "bca") == first
    # The same numbers as the first has, for other labels.
    assert sha256("xzy", "abc", swapped="yz") != first
    assert sha256("xyz", "bac", swapped="ab") != first
