"""A batch: the rows of one or more members, laid out for one pass through the base.

Rows of one member lie side by side, so each member owns one slice of the rows and one of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.model.packing import Packing, pack, rounded_up, send

Layout = Literal["packed", "padded"]

SHAPES = 32
"""Token counts are rounded up to this many steps to the power of two, with tokens that belong to nobody."""


class Sequences(Protocol):
    """Tokenised examples: row `i` is `tokens[offsets[i]:offsets[i + 1]]`."""

    @property
    def tokens(self) -> NDArray[np.int32]: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    @property
    def token_types(self) -> NDArray[np.uint8] | None: ...


@dataclass(frozen=True)
class Batch:
    layout: Layout
    input_ids: Tensor
    position_ids: Tensor
    token_types: Tensor | None
    attention_mask: Tensor | None
    packing: Packing | None
    first_tokens: Tensor
    """[rows] where each row's first token stands among the flattened tokens."""
    row_of_token: Tensor
    """[real tokens] the row each real token belongs to."""
    real_tokens: Tensor | None
    """[real tokens] where they stand among the flattened tokens; None when all are real."""
    lengths: Tensor
    rows: tuple[int, ...]
    """Number of rows of each member."""
    tokens: tuple[int, ...]
    """Number of real tokens of each member."""

    @property
    def filler(self) -> int:
        """Tokens at the end of a packed row that belong to nobody, for the sake of fewer shapes."""
        return self.input_ids.shape[1] - sum(self.tokens) if self.layout == "packed" else 0

    @property
    def slots_each(self) -> tuple[int, ...]:
        """Flattened positions of each member, padding counted; the last has the filler too."""
        if self.layout == "packed":
            return (*self.tokens[:-1], self.tokens[-1] + self.filler)
        width = self.input_ids.shape[1]
        return tuple(rows * width for rows in self.rows)


def assemble(
    source: Sequences,
    rows_by_member: Sequence[NDArray[np.int64]],
    layout: Layout,
    device: torch.device,
    first_position: int = 0,
) -> Batch:
    """The named rows of `source`, member after member."""
    rows = np.concatenate(list(rows_by_member))
    starts, lengths = source.offsets[rows], np.diff(source.offsets)[rows]
    before = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(before, lengths)
    wanted = np.repeat(starts, lengths) + positions
    columns = {
        "input_ids": np.asarray(source.tokens[wanted], dtype=np.int64),
        "position_ids": positions + first_position,
    }
    if source.token_types is not None:
        columns["token_types"] = np.asarray(source.token_types[wanted], dtype=np.int64)
    row_of_token = np.repeat(np.arange(len(rows)), lengths)
    width = int(lengths.max())
    place = row_of_token * width + positions
    packed = layout == "packed"
    counts = [len(member) for member in rows_by_member]
    packing = pack(lengths, counts, device) if packed else None
    shape = (len(rows), width)
    if packing is not None:  # tokens that lie as their bins do leave no room for others
        shape = (1, len(place) if packing.slots is None else rounded_up(len(place), SHAPES))
    laid = {name: _laid(column, None if packed else place, shape) for name, column in columns.items()}
    tensors = {name: send(column, device) for name, column in laid.items()}
    bounds = np.cumsum([0, *counts])
    return Batch(
        layout=layout,
        input_ids=tensors["input_ids"],
        position_ids=tensors["position_ids"],
        token_types=tensors.get("token_types"),
        attention_mask=None if packed else send(np.arange(width) < lengths[:, None], device).long(),
        packing=packing,
        first_tokens=send(before if packed else np.arange(len(rows)) * width, device),
        row_of_token=send(row_of_token, device),
        real_tokens=None if packed or len(place) == len(rows) * width else send(place, device),
        lengths=send(lengths, device),
        rows=tuple(counts),
        tokens=tuple(int(lengths[a:b].sum()) for a, b in zip(bounds, bounds[1:], strict=False)),
    )


def _laid(
    column: NDArray[np.int64], place: NDArray[np.int64] | None, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Row after row, or each number at its place; zeros elsewhere."""
    flat = np.zeros(shape[0] * shape[1], dtype=np.int64)
    flat[slice(len(column)) if place is None else place] = column
    return flat.reshape(shape)
