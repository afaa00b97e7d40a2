"""From texts to tokens: the one way, in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BATCH_SIZE = 1000
CHARACTERS_A_TOKEN = 64
"""A text longer than this for each token that is kept may be cut before it is tokenised."""
SPARE_TOKENS = 8
"""A beginning must have so many more than are kept: its last word, cut short, is not among them."""

Array = NDArray[Any]


class Tokenizer(Protocol):
    """What is used of a fast tokenizer of transformers."""

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
    ) -> Mapping[str, Any]: ...

    def num_special_tokens_to_add(self, pair: bool = False) -> int: ...


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


def prepare_texts(
    columns: Sequence[Sequence[str]], separator: str, *, takes_pairs: bool = True
) -> tuple[list[str], list[str] | None]:
    """The texts and their pairs: one column alone, two as a pair, all others joined by `separator`."""
    if len(columns) == 1:
        return list(columns[0]), None
    if len(columns) == 2 and takes_pairs:
        return list(columns[0]), list(columns[1])
    return [f" {separator} ".join(texts) for texts in zip(*columns, strict=True)], None


def encode_texts(columns: Sequence[Sequence[str]], tokenizer: Tokenizer, max_len: int) -> Tokens:
    """Tokens of the rows of one or several text columns, each row cut to `max_len` tokens."""
    tokens, lengths, types = [np.empty(0, np.int32)], [np.zeros(1, np.int64)], [np.empty(0, np.uint8)]
    for start in range(0, len(columns[0]), BATCH_SIZE):
        rows = [column[start : start + BATCH_SIZE] for column in columns]
        batch = _tokenize(rows, tokenizer, max_len, cut=True)
        lengths.append(np.array([len(ids) for ids in batch["input_ids"]], dtype=np.int64))
        count = int(lengths[-1].sum())
        tokens.append(np.fromiter(chain.from_iterable(batch["input_ids"]), dtype=np.int32, count=count))
        token_types = batch.get("token_type_ids")
        if token_types is None:
            types.append(np.zeros(count, np.uint8))
        else:
            types.append(np.fromiter(chain.from_iterable(token_types), dtype=np.uint8, count=count))
    all_types = np.concatenate(types)
    return Tokens(
        tokens=np.concatenate(tokens),
        offsets=np.cumsum(np.concatenate(lengths), dtype=np.int64),
        token_types=all_types if all_types.any() else None,
    )


def full_lengths(
    tokens: Tokens, columns: Sequence[Sequence[str]], tokenizer: Tokenizer, max_len: int
) -> Array:
    """How many tokens each row would have if it were not cut."""
    lengths = tokens.lengths.copy()
    # Only rows at the limit can have been cut; the others need no second pass of the tokenizer.
    perhaps_cut = np.flatnonzero(lengths >= max_len)
    for start in range(0, len(perhaps_cut), BATCH_SIZE):
        rows = perhaps_cut[start : start + BATCH_SIZE]
        batch = [[column[row] for row in rows] for column in columns]
        lengths[rows] = [len(ids) for ids in _tokenize(batch, tokenizer, max_len, cut=False)["input_ids"]]
    return lengths


def _tokenize(
    columns: Sequence[Sequence[str]], tokenizer: Tokenizer, max_len: int, cut: bool
) -> Mapping[str, Any]:
    separator = getattr(tokenizer, "sep_token", None) or "\n"
    # Without a token between the two, as with GPT-2's tokenizer, "mon" + "ey" would be one word.
    alone, paired = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    texts, pairs = prepare_texts(columns, separator, takes_pairs=paired > alone)
    if cut and getattr(tokenizer, "truncation_side", "right") == "right":
        texts = [_beginning(text, tokenizer, max_len) for text in texts]
        pairs = None if pairs is None else [_beginning(text, tokenizer, max_len) for text in pairs]
    return tokenizer(texts, pairs, truncation=cut, max_length=max_len)


def _beginning(text: str, tokenizer: Tokenizer, max_len: int) -> str:
    """As much of a very long text as has all the tokens that are kept: 10 MB are not tokenised for 16."""
    size, wanted = CHARACTERS_A_TOKEN * max_len, max_len + SPARE_TOKENS
    while size < len(text):
        tokens = tokenizer([text[:size]], None, truncation=True, max_length=wanted)["input_ids"][0]
        if len(tokens) == wanted:
            return text[:size]
        size *= 8
    return text
