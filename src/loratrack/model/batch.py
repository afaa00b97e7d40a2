"""A batch: the rows of one or more members, arranged for one pass through the base.

    packed    | member 0: a a a a b b | member 1: c c c d | filler |         one line of tokens
    padded    | member 0: a a a a     |                                      a line for each row
              |           b b . .     |
              | member 1: c c c .     |
              |           d . . .     |

Rows of one member lie side by side, so each member owns one slice of the rows and one of the tokens. A
batch is arranged in numpy first (`BatchLayout`); then all arrays go to the device in one transfer (`Batch`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.model.packing import Packing, Ragged, fits_as_it_lies, pack, ragged_bounds, rounded_up

Layout = Literal["packed", "padded"]

SIZES_PER_OCTAVE = 32
"""Token counts are rounded up to one of this many sizes per power of two; filler tokens belong to no row."""
RAGGED_SIZES_PER_OCTAVE = 8
"""Fewer sizes on a GPU: each costs one captured CUDA graph, extra tokens cost almost nothing."""
ALIGNED_BYTES = 16
"""Each array begins at a multiple of this on its way to a GPU."""

TENSOR_TYPES = {"int64": torch.int64, "int32": torch.int32, "float32": torch.float32}

Arrays = dict[str, NDArray[Any]]


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
    packing: Packing | Ragged | None
    first_tokens: Tensor
    """[rows] index of each row's first token among the flattened tokens."""
    row_of_token: Tensor
    """[real tokens] the row each real token belongs to; in ragged batches the filler has a row of its own."""
    real_tokens: Tensor | None
    """[real tokens] their indices among the flattened tokens; None when all are real."""
    lengths: Tensor
    rows: tuple[int, ...]
    """Number of rows of each member."""
    tokens: tuple[int, ...]
    """Number of real tokens of each member."""
    more: Mapping[str, Tensor]
    """What others sent along: labels and weights of an objective, ends and dropout keys of a route."""

    @property
    def slots_each(self) -> tuple[int, ...]:
        return slots_each(self.layout, self.rows, self.tokens, self.input_ids.shape[1])


def slots_each(layout: Layout, rows: Sequence[int], tokens: Sequence[int], width: int) -> tuple[int, ...]:
    """Flattened positions of each member, padding counted.

    In a packed batch the filler counts as the last member's.
    """
    if layout == "packed":
        return (*tokens[:-1], width - sum(tokens[:-1]))
    return tuple(count * width for count in rows)


@dataclass(frozen=True)
class BatchLayout:
    """A batch before it is sent to the device."""

    layout: Layout
    arrays: Arrays
    rows: tuple[int, ...]
    tokens: tuple[int, ...]
    longest: int
    is_ragged: bool

    @property
    def slots_each(self) -> tuple[int, ...]:
        return slots_each(self.layout, self.rows, self.tokens, self.arrays["input_ids"].shape[1])

    @property
    def shape(self) -> tuple[Any, ...]:
        """Ragged batches of one shape run the same kernels, so one CUDA graph serves them."""
        sizes = tuple((name, array.shape) for name, array in self.arrays.items())
        return (self.layout, self.rows, self.longest, sizes)

    def on(self, device: torch.device) -> Batch:
        return self.batch(send_together(self.arrays, device), device)

    def batch(self, sent: Mapping[str, Tensor], device: torch.device) -> Batch:
        """The batch whose arrays were sent to `device` already."""
        packing: Packing | Ragged | None = None
        if self.is_ragged:
            packing = Ragged(sent["bounds"], self.longest)
        elif self.layout == "packed":
            packing = pack(self.arrays["lengths"], self.rows, device)
        own = {"input_ids", "position_ids", "token_types", "attention_mask", "bounds"}
        own |= {"first_tokens", "row_of_token", "real_tokens", "lengths"}
        return Batch(
            layout=self.layout,
            input_ids=sent["input_ids"],
            position_ids=sent["position_ids"],
            token_types=sent.get("token_types"),
            attention_mask=sent.get("attention_mask"),
            packing=packing,
            first_tokens=sent["first_tokens"],
            row_of_token=sent["row_of_token"],
            real_tokens=sent.get("real_tokens"),
            lengths=sent["lengths"],
            rows=self.rows,
            tokens=self.tokens,
            more={name: tensor for name, tensor in sent.items() if name not in own},
        )


def arrange(
    source: Sequences,
    rows_by_member: Sequence[NDArray[np.int64]],
    layout: Layout,
    first_position: int = 0,
    *,
    is_ragged: bool = False,
) -> BatchLayout:
    """The named rows of `source`, member after member; ragged: packed for an attention without bins."""
    rows = np.concatenate(list(rows_by_member))
    starts, lengths = source.offsets[rows], np.diff(source.offsets)[rows]
    before = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(before, lengths)
    token_indices = np.repeat(starts, lengths) + positions
    columns = {
        "input_ids": np.asarray(source.tokens[token_indices], dtype=np.int64),
        "position_ids": positions + first_position,
    }
    if source.token_types is not None:
        columns["token_types"] = np.asarray(source.token_types[token_indices], dtype=np.int64)
    counts = tuple(len(member) for member in rows_by_member)
    ends = np.cumsum([0, *counts])
    longest = int(lengths.max())
    if is_ragged:
        longest = rounded_up(longest, RAGGED_SIZES_PER_OCTAVE // 2)
        arrays = _ragged(columns, lengths, longest)
    elif layout == "packed":
        # When no token moves, the count cannot be rounded up.
        total = len(positions) if fits_as_it_lies(lengths) else rounded_up(len(positions), SIZES_PER_OCTAVE)
        arrays = _packed(columns, lengths, total)
    else:
        arrays = _padded(columns, lengths, longest)
    return BatchLayout(
        layout=layout,
        arrays=arrays,
        rows=counts,
        tokens=tuple(int(lengths[a:b].sum()) for a, b in pairwise(ends)),
        longest=longest,
        is_ragged=is_ragged,
    )


def _packed(columns: Arrays, lengths: NDArray[np.int64], total: int) -> Arrays:
    """One row after another, and filler tokens up to `total`."""
    arrays = {name: _placed(column, None, (1, total)) for name, column in columns.items()}
    row_of_token = np.repeat(np.arange(len(lengths)), lengths)
    first_tokens = np.cumsum(lengths) - lengths
    return arrays | {"row_of_token": row_of_token, "lengths": lengths, "first_tokens": first_tokens}


def _ragged(columns: Arrays, lengths: NDArray[np.int64], longest: int) -> Arrays:
    total = rounded_up(int(lengths.sum()), RAGGED_SIZES_PER_OCTAVE)
    arrays = _packed(columns, lengths, total)
    filler = np.full(total - int(lengths.sum()), len(lengths))
    arrays["row_of_token"] = np.concatenate([arrays["row_of_token"], filler])
    return arrays | {"bounds": ragged_bounds(lengths, total, longest)}


def _padded(columns: Arrays, lengths: NDArray[np.int64], width: int) -> Arrays:
    shape = (len(lengths), width)
    row_of_token = np.repeat(np.arange(len(lengths)), lengths)
    before = np.cumsum(lengths) - lengths
    indices = row_of_token * width + np.arange(len(row_of_token)) - np.repeat(before, lengths)
    arrays = {name: _placed(column, indices, shape) for name, column in columns.items()}
    arrays |= {"row_of_token": row_of_token, "lengths": lengths}
    arrays["first_tokens"] = np.arange(len(lengths)) * width
    arrays["attention_mask"] = (np.arange(width) < lengths[:, None]).astype(np.int64)
    if len(indices) < len(lengths) * width:
        arrays["real_tokens"] = indices
    return arrays


def send_together(
    arrays: Mapping[str, NDArray[Any]], device: torch.device, target: Tensor | None = None
) -> dict[str, Tensor]:
    """All arrays to the device in one transfer from pinned memory, without waiting for it."""
    if device.type == "cpu":
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    starts = _starts(arrays)
    whole = np.empty(starts[-1], dtype=np.uint8)
    for array, start in zip(arrays.values(), starts, strict=False):
        whole[start : start + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
    if target is None:
        target = torch.empty(len(whole), dtype=torch.uint8, device=device)
    target.copy_(torch.from_numpy(whole).pin_memory(), non_blocking=True)
    return {
        name: target[start : start + array.nbytes].view(TENSOR_TYPES[array.dtype.name]).view(array.shape)
        for (name, array), start in zip(arrays.items(), starts, strict=False)
    }


def sent_bytes(arrays: Mapping[str, NDArray[Any]]) -> int:
    """How much memory they take on a GPU."""
    return _starts(arrays)[-1]


def _starts(arrays: Mapping[str, NDArray[Any]]) -> list[int]:
    sizes = [-(-array.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES for array in arrays.values()]
    return [0, *accumulate(sizes)]


def _placed(
    column: NDArray[np.int64], indices: NDArray[np.int64] | None, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """One number after another, or each at its index; zeros elsewhere."""
    flat = np.zeros(shape[0] * shape[1], dtype=np.int64)
    flat[slice(len(column)) if indices is None else indices] = column
    return flat.reshape(shape)
