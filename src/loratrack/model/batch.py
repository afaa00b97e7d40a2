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

Layout = Literal["packed", "padded"]

MAX_BUCKETS = 6
"""Attention works on this many groups of similar length at most."""
BUCKET_WASTE = 1.15
"""A group is closed when padding it to its longest row would cost more than this times its tokens."""


class Sequences(Protocol):
    """Tokenised examples: row `i` is `tokens[offsets[i]:offsets[i + 1]]`."""

    @property
    def tokens(self) -> NDArray[np.int32]: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    @property
    def token_types(self) -> NDArray[np.uint8] | None: ...


@dataclass(frozen=True)
class Bucket:
    """Rows of similar length, padded to `length` for attention alone."""

    rows: int
    length: int
    keys: Tensor | None
    """[rows, 1, 1, length], true where a real token stands; None when the rows fill it."""


@dataclass(frozen=True)
class Packing:
    """How the tokens of a packed row come apart for attention, and together again."""

    buckets: tuple[Bucket, ...]
    slots: Tensor | None
    """For each padded slot the token that stands there; None when nothing needs moving."""
    places: Tensor | None
    """For each token its padded slot."""


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
    def slots_each(self) -> tuple[int, ...]:
        """Flattened positions of each member, padding counted."""
        if self.layout == "packed":
            return self.tokens
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
    shape = (1, len(place)) if packed else (len(rows), width)
    laid = {name: _laid(column, None if packed else place, shape) for name, column in columns.items()}
    tensors = {name: _send(column, device) for name, column in laid.items()}
    bounds = np.cumsum([0, *(len(member) for member in rows_by_member)])
    return Batch(
        layout=layout,
        input_ids=tensors["input_ids"],
        position_ids=tensors["position_ids"],
        token_types=tensors.get("token_types"),
        attention_mask=None if packed else _send(np.arange(width) < lengths[:, None], device).long(),
        packing=_packing(lengths, before, device) if packed else None,
        first_tokens=_send(before if packed else np.arange(len(rows)) * width, device),
        row_of_token=_send(row_of_token, device),
        real_tokens=None if packed or len(place) == len(rows) * width else _send(place, device),
        lengths=_send(lengths, device),
        rows=tuple(len(member) for member in rows_by_member),
        tokens=tuple(int(lengths[a:b].sum()) for a, b in zip(bounds, bounds[1:], strict=False)),
    )


def _laid(
    column: NDArray[np.int64], place: NDArray[np.int64] | None, shape: tuple[int, int]
) -> NDArray[np.int64]:
    if place is None:
        return column.reshape(shape)
    flat = np.zeros(shape[0] * shape[1], dtype=np.int64)
    flat[place] = column
    return flat.reshape(shape)


def _packing(lengths: NDArray[np.int64], before: NDArray[np.int64], device: torch.device) -> Packing:
    """Rows in groups of similar length; one group without padding when all are equal."""
    if (lengths == lengths[0]).all():
        return Packing((Bucket(len(lengths), int(lengths[0]), None),), None, None)
    order = np.argsort(-lengths, kind="stable")
    buckets, slots = [], []
    places = np.empty(int(lengths.sum()), dtype=np.int64)
    filled = 0
    for group in _groups(lengths[order]):
        rows = order[group]
        width = int(lengths[rows[0]])
        inside = np.arange(width) < lengths[rows][:, None]
        tokens = np.where(inside, before[rows][:, None] + np.arange(width), before[rows][:, None])
        slots.append(tokens.reshape(-1))
        places[tokens[inside]] = filled + np.flatnonzero(inside)
        filled += tokens.size
        keys = None if inside.all() else _send(inside[:, None, None, :], device)
        buckets.append(Bucket(len(rows), width, keys))
    return Packing(tuple(buckets), _send(np.concatenate(slots), device), _send(places, device))


def _groups(lengths: NDArray[np.int64]) -> list[slice]:
    """Slices of the lengths, longest first, each padded at small cost."""
    groups: list[slice] = []
    start, total = 0, 0
    for end, length in enumerate(lengths):
        total += int(length)
        grown = lengths[start] * (end + 1 - start)
        if end > start and grown > BUCKET_WASTE * total and len(groups) < MAX_BUCKETS - 1:
            groups.append(slice(start, end))
            start, total = end, int(length)
    return [*groups, slice(start, len(lengths))]


def _send(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """To the device without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
