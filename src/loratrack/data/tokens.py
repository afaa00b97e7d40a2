"""From texts to tokens: the one way, in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np

BATCH_SIZE = 1000

Array = np.ndarray[Any, np.dtype[Any]]


class Tokenizer(Protocol):
    """What is used of a fast tokenizer of transformers."""

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
    ) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Tokens:
    """Row i is `tokens[offsets[i]:offsets[i + 1]]`, special tokens included."""

    tokens: Array
    """int32, all rows one after another."""
    offsets: Array
    """int64, one more than there are rows."""
    token_types: Array | None
    """uint8, as long as `tokens`; None when all are 0."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        return np.diff(self.offsets)


def prepare_texts(columns: Sequence[Sequence[str]], separator: str) -> tuple[list[str], list[str] | None]:
    """The texts and their pairs: one column alone, two as a pair, more joined by `separator`."""
    if len(columns) == 1:
        return list(columns[0]), None
    if len(columns) == 2:
        return list(columns[0]), list(columns[1])
    return [f" {separator} ".join(texts) for texts in zip(*columns, strict=True)], None


def encode_texts(columns: Sequence[Sequence[str]], tokenizer: Tokenizer, max_len: int) -> Tokens:
    """Tokens of the rows of one or several text columns, each row cut to `max_len` tokens."""
    batches = [
        _encode_batch([column[start : start + BATCH_SIZE] for column in columns], tokenizer, max_len)
        for start in range(0, len(columns[0]), BATCH_SIZE)
    ]
    types = np.concatenate([np.empty(0, np.uint8), *(types for _, types, _ in batches)])
    return Tokens(
        tokens=np.concatenate([np.empty(0, np.int32), *(tokens for tokens, _, _ in batches)]),
        offsets=np.cumsum(np.concatenate([[0], *(lengths for _, _, lengths in batches)]), dtype=np.int64),
        token_types=types if types.any() else None,
    )


def full_lengths(
    tokens: Tokens, columns: Sequence[Sequence[str]], tokenizer: Tokenizer, max_len: int
) -> Array:
    """How many tokens each row would have if it were not cut."""
    lengths = tokens.lengths.copy()
    perhaps_cut = np.flatnonzero(lengths >= max_len)
    for start in range(0, len(perhaps_cut), BATCH_SIZE):
        rows = perhaps_cut[start : start + BATCH_SIZE]
        batch = [[column[row] for row in rows] for column in columns]
        lengths[rows] = [len(ids) for ids in _tokenize(batch, tokenizer, max_len, cut=False)["input_ids"]]
    return lengths


def _encode_batch(
    columns: Sequence[Sequence[str]], tokenizer: Tokenizer, max_len: int
) -> tuple[Array, Array, Array]:
    batch = _tokenize(columns, tokenizer, max_len, cut=True)
    ids = batch["input_ids"]
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    tokens = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum()))
    types = batch.get("token_type_ids")
    flat_types = np.zeros(len(tokens), np.uint8)
    if types is not None:
        flat_types = np.fromiter(chain.from_iterable(types), dtype=np.uint8, count=len(tokens))
    return tokens, flat_types, lengths


def _tokenize(
    columns: Sequence[Sequence[str]], tokenizer: Tokenizer, max_len: int, cut: bool
) -> Mapping[str, Any]:
    separator = getattr(tokenizer, "sep_token", None) or "\n"
    texts, pairs = prepare_texts(columns, separator)
    return tokenizer(texts, pairs, truncation=cut, max_length=max_len)
