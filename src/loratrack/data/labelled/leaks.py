"""Training rows that are a held-out row to the base: other letters, the same tokens.

`The Film` and `the film` are two texts in a file, and one for a base that knows no capitals: trained on the
one, it has seen what it is asked when it is scored on the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import pairwise

import numpy as np

from loratrack.data.labelled.corpus import Examples
from loratrack.data.tokens import Array, Tokens


def leaks(
    parts: Mapping[str, Tokens], examples: Mapping[str, Examples], unknown: int | None, max_len: int
) -> dict[str, list[tuple[int, int]]]:
    """For each part but `train` the rows of `train` with the tokens of one of its rows, and that row.

    Different texts may have the same tokens where a row was cut at `max_len` or has the `unknown` token:
    there the texts must be the same as well, but for capitals and space.
    """
    train = _keys(parts["train"], examples["train"], unknown, max_len)
    found: dict[str, list[tuple[int, int]]] = {}
    told: set[int] = set()
    for name in parts:
        if name == "train":
            continue
        rows_of = {key: row for row, key in enumerate(_keys(parts[name], examples[name], unknown, max_len))}
        pairs = [(row, rows_of[key]) for row, key in enumerate(train) if key in rows_of and row not in told]
        told |= {row for row, _ in pairs}
        if pairs:
            found[name] = pairs
    return found


def _keys(tokens: Tokens, examples: Examples, unknown: int | None, max_len: int) -> list[Hashable]:
    """The same for rows that are one text to the base."""
    ids = tokens.tokens
    content, size = ids.tobytes(), ids.itemsize
    is_vague = tokens.lengths >= max_len
    if unknown is not None:
        is_vague[np.repeat(np.arange(len(tokens)), tokens.lengths)[ids == unknown]] = True
    types = b"" if tokens.token_types is None else tokens.token_types.tobytes()
    keys: list[Hashable] = []
    for row, (start, end) in enumerate(pairwise(tokens.offsets.tolist())):
        key = content[start * size : end * size] + types[start:end]
        if is_vague[row]:
            texts = (" ".join(column[row].casefold().split()) for column in examples.columns)
            keys.append((key, *texts))
        else:
            keys.append(key)
    return keys


def rows_but(count: int, left_out: Array) -> Array:
    """The numbers of `count` rows but those that are left out."""
    kept = np.ones(count, dtype=bool)
    kept[left_out] = False
    return np.flatnonzero(kept)
