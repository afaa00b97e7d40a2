"""Rows of one part that are a row of another to the base: other letters, the same tokens.

`The Film` and `the film` are two texts in a file, and one for a base that knows no capitals: trained on the
one, it has seen what it is asked when it is scored on the other. So has a model whose epoch was chosen by the
one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import pairwise

import numpy as np

from loratrack.data.labelled.corpus import Examples
from loratrack.data.tokens import Array, Tokens

COMPARED = (("validation", "test"), ("train", "test"), ("train", "validation"))
"""What is asked last stays; a row is told of once."""


def leaks(
    parts: Mapping[str, Tokens], examples: Mapping[str, Examples], unknown: int | None, max_len: int
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """For each two of COMPARED the rows of the first with the tokens of a row of the other, and that row.

    Different texts may have the same tokens where a row was cut at `max_len` or has the `unknown` token:
    there the texts must be the same as well, but for capitals and space.
    """
    keys = {name: _keys(parts[name], examples[name], unknown, max_len) for name in parts}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    told: set[tuple[str, int]] = set()
    for name, other in COMPARED:
        if other not in keys:
            continue
        rows_of = {key: row for row, key in enumerate(keys[other])}
        pairs = [
            (row, rows_of[key])
            for row, key in enumerate(keys[name])
            if key in rows_of and (name, row) not in told
        ]
        told |= {(name, row) for row, _ in pairs}
        if pairs:
            found[name, other] = pairs
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
