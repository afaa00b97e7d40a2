"""Packing: rows of all lengths side by side in bins of few widths, so that attention wastes little.

    tokens      a a a a a b b b c c                 three rows, one after another, no padding
                   |  spread              ^  collect
                   v                      |
    bins        [ a a a a a . . . ]                 row a fills one bin
                [ b b b c c . . . ]                 b and c share one; a mask keeps them apart:

                      b b b c c .
                    b 1 1 1 0 0 0
                    b 1 1 1 0 0 0
                    b 1 1 1 0 0 0
                    c 0 0 0 1 1 0
                    c 0 0 0 1 1 0

Everything but attention works on the tokens alone; around the attention product they move into bins and back.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTH = 32
"""Bins are multiples of this: on a CPU, bf16 softmax over 28 took six times as long as over 32."""
MAX_WIDTHS = 3
"""Bins come in this many widths at most, each half of the next."""
COUNTS_PER_OCTAVE = 16
"""Counts are rounded up to one of this many per power of two: each new shape costs a newly built kernel."""


@dataclass(frozen=True)
class Bins:
    """Bins of one width."""

    count: int
    width: int
    sequences: Tensor | None
    """[count, width] the sequence in each slot, -1 for padding; None when each bin is one whole sequence."""
    is_shared: bool
    """Whether a bin holds several sequences."""


@dataclass(frozen=True)
class Packing:
    """Which token stands in which slot of which bin."""

    groups: tuple[Bins, ...]
    device: torch.device
    slots: Tensor | None = None
    """For each slot of all groups its token; None when the tokens already lie as the bins do."""
    first_slots: Tensor | None = None
    """For each token the first slot of its bin."""
    columns: Tensor | None = None
    """For each token its column in its bin."""
    widths: Tensor | None = None
    """For each token how wide its bin is."""
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What several layers ask for is computed once for a batch."""

    def spread(self, tokens: Tensor) -> list[Tensor]:
        """[tokens, heads, size] to [bins, heads, width, size] for each group."""
        heads, size = tokens.shape[1:]
        if self.slots is None:
            return [tokens.view(g.count, g.width, heads, size).transpose(1, 2) for g in self.groups]
        flat = spread(tokens.reshape(-1, size), *self._moves(heads))
        parts = torch.split(flat, [group.count * group.width * heads for group in self.groups])
        pairs = zip(parts, self.groups, strict=True)
        return [part.view(group.count, heads, group.width, size) for part, group in pairs]

    def collect(self, parts: Sequence[Tensor], tokens: int) -> Tensor:
        """The way back, to [tokens, heads, size]; tokens that stand in no bin get zeros."""
        heads, size = parts[0].shape[1], parts[0].shape[-1]
        if self.slots is None:
            return parts[0].transpose(1, 2).reshape(tokens, heads, size)
        flat = [part.reshape(-1, size) for part in parts]
        joined = flat[0] if len(flat) == 1 else torch.cat(flat)
        return collect(joined, self._moves(heads)[1], tokens * heads).view(tokens, heads, size)

    def visible(self, group: int, causal: bool, window: int | None) -> Tensor | None:
        """[bins, 1, width, width] or smaller: which slot sees which.

        None when all see all, or with `causal`, all that came before; the padding of a bin comes last.
        """
        key = ("visible", group, causal, window)
        if key not in self._cache:
            self._cache[key] = _visible(self.groups[group], causal, window, self.device)
        mask: Tensor | None = self._cache[key]
        return mask

    def bias(self, group: int, causal: bool, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """The mask as a summand: 0 where a slot is seen, minus infinity elsewhere; None where all is seen."""
        seen = self.visible(group, causal, window)
        key = ("bias", group, causal, window, dtype)
        if seen is None and not causal:
            return None
        if key not in self._cache:
            if seen is None:
                seen = _before(self.groups[group].width, self.device)
            zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._cache[key] = zeros.masked_fill_(~seen, -torch.inf)
        bias: Tensor = self._cache[key]
        return bias

    def _moves(self, heads: int) -> tuple[Tensor, Tensor]:
        """Slots and positions per (token, head), for bins laid out head-major."""
        if heads not in self._cache:
            assert self.slots is not None
            assert self.first_slots is not None
            assert self.columns is not None
            assert self.widths is not None
            head = torch.arange(heads, device=self.device)
            slots = [
                (part.view(group.count, 1, group.width) * heads + head[:, None]).flatten()
                for part, group in zip(
                    torch.split(self.slots, [group.count * group.width for group in self.groups]),
                    self.groups,
                    strict=True,
                )
            ]
            first = self.first_slots * heads + self.columns
            positions = (first[:, None] + self.widths[:, None] * head).flatten()
            self._cache[heads] = torch.cat(slots), positions
        moves: tuple[Tensor, Tensor] = self._cache[heads]
        return moves


@dataclass(frozen=True)
class Ragged:
    """Sequences one after another, for attention of variable length: it needs only where each begins."""

    bounds: Tensor
    """Where each sequence begins, and where the last one ends; empty ones may follow."""
    longest: int
    """No sequence is longer."""


def ragged_bounds(lengths: NDArray[np.int64], total: int, longest: int) -> NDArray[np.int32]:
    """Bounds of the sequences, then of as many more as fill `total` tokens, none of them too long.

    Their number follows from `total`, `longest` and the number of sequences alone.
    """
    ends = np.cumsum(lengths)
    fillers = -(-total // longest)
    more = np.minimum(ends[-1] + longest * np.arange(1, fillers + 1), total)
    return np.concatenate([[0], ends, more]).astype(np.int32)


def fits_as_it_lies(lengths: NDArray[np.int64]) -> bool:
    """Whether each sequence is a bin by itself, so that no token has to move."""
    return bool((lengths == lengths[0]).all() and lengths[0] % WIDTH == 0)


def pack(lengths: NDArray[np.int64], rows: Sequence[int], device: torch.device) -> Packing:
    """Sequences of these lengths, one after another; `rows` says how many belong to each member.

    Members share no bin: a mask multiplies by 0, and 0 × NaN is NaN: one member's NaN would reach the others.
    """
    if fits_as_it_lies(lengths):
        return Packing((Bins(len(lengths), int(lengths[0]), None, is_shared=False),), device)
    bin_of_row, column_of_row, bin_widths = _fill(lengths, rows)
    # bins of one width lie together, the narrow ones first: each width is one attention product
    widths, counts = np.unique(bin_widths, return_counts=True)
    rounded = np.array([rounded_up(int(count), COUNTS_PER_OCTAVE) for count in counts])
    ends = np.cumsum(rounded * widths)
    group_starts = ends - rounded * widths
    first_slots = np.empty(len(bin_widths), dtype=np.int64)
    for width, count, start in zip(widths, counts, group_starts, strict=True):
        first_slots[bin_widths == width] = start + width * np.arange(count)
    row = np.repeat(np.arange(len(lengths)), lengths)
    columns = column_of_row[row] + np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    first_slot = first_slots[bin_of_row][row]
    positions = first_slot + columns
    # A padding slot copies the token before it, which is of its own bin: no softmax sees foreign numbers.
    holder = np.zeros(ends[-1], dtype=np.int64)
    holder[positions] = positions
    slots = np.zeros(ends[-1], dtype=np.int64)
    slots[positions] = np.arange(len(positions))
    slots = slots[np.maximum.accumulate(holder)]
    sequences = np.full(ends[-1], -1, dtype=np.int64)
    sequences[positions] = row
    shared = np.bincount(bin_of_row) > 1
    groups = tuple(
        Bins(
            int(count),
            int(width),
            send(sequences[start:end].reshape(count, width), device),
            is_shared=bool(shared[bin_widths == width].any()),
        )
        for count, width, start, end in zip(rounded, widths, group_starts, ends, strict=True)
    )
    return Packing(
        groups,
        device,
        send(slots, device),
        send(first_slot, device),
        send(columns, device),
        send(bin_widths[bin_of_row][row], device),
    )


def rounded_up(count: int, shapes: int) -> int:
    """`count` or a little more: one of `shapes` values per power of two."""
    step = 1
    while step * shapes < count:
        step *= 2
    return -(-count // step) * step


def send(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """To the device, without waiting for the transfer."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def spread(tokens: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
    """A row for each slot. A padding slot gets a copy of some token's row, and gives no gradient."""
    result: Tensor = _Spread.apply(tokens, slots, positions)  # type: ignore[no-untyped-call]
    return result


def collect(slots: Tensor, positions: Tensor, rows: int) -> Tensor:
    """The row at each position, and zeros up to `rows`."""
    result: Tensor = _Collect.apply(slots, positions, rows)  # type: ignore[no-untyped-call]
    return result


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.rows = tokens.shape[0]
        return tokens.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return _gathered(grads[0], positions, ctx.rows), None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slots: Tensor, positions: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.slots = slots.shape[0]
        return _gathered(slots, positions, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        slots = grads[0].new_zeros(ctx.slots, *grads[0].shape[1:])
        return slots.index_copy_(0, positions, grads[0][: len(positions)]), None, None


def _gathered(source: Tensor, positions: Tensor, rows: int) -> Tensor:
    if len(positions) == rows:
        return source.index_select(0, positions)
    result = source.new_empty(rows, *source.shape[1:])
    torch.index_select(source, 0, positions, out=result[: len(positions)])
    result[len(positions) :] = 0
    return result


def _visible(bins: Bins, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Every slot sees at least one: a softmax over nothing is NaN."""
    sequences, mask = bins.sequences, None
    window = None if window is None or window >= bins.width else window
    if sequences is not None and (bins.is_shared or (window is not None and not causal)):
        mask = (sequences[:, :, None] == sequences[:, None, :])[:, None]
    elif sequences is not None and not causal:
        mask = ((sequences >= 0) | (sequences < 0).all(dim=1, keepdim=True))[:, None, None]
    if causal and (bins.is_shared or window is not None):
        before = _before(bins.width, device)
        mask = before if mask is None else mask & before
    if window is not None:
        behind = _before(bins.width, device, window)
        mask = behind & behind.T if mask is None else mask & behind & behind.T
    return mask


def _before(width: int, device: torch.device, ahead: int = 1) -> Tensor:
    """[width, width] causal mask: slot i sees j if j < i + ahead."""
    return torch.ones(width, width, dtype=torch.bool, device=device).tril(ahead - 1)


def _fill(
    lengths: NDArray[np.int64], rows: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each row its bin and where it begins in it, and for each bin its width.

    Of each member the longest first, each into the fullest bin that has room, else into a new one just wide
    enough.
    """
    widths = _widths(int(lengths.max()))
    bin_widths: list[int] = []
    bin_of_row, column_of_row = np.empty_like(lengths), np.empty_like(lengths)
    start = 0
    for count in rows:
        rooms: list[tuple[int, int]] = []  # what is left in each of the member's bins, least first
        for row in start + np.argsort(-lengths[start : start + count], kind="stable"):
            length = int(lengths[row])
            fullest = bisect_left(rooms, (length, 0))
            if fullest < len(rooms):
                room, number = rooms.pop(fullest)
            else:
                room, number = next(width for width in widths if width >= length), len(bin_widths)
                bin_widths.append(room)
            bin_of_row[row], column_of_row[row] = number, bin_widths[number] - room
            insort(rooms, (room - length, number))
        start += count
    return bin_of_row, column_of_row, np.array(bin_widths, dtype=np.int64)


def _widths(longest: int) -> list[int]:
    """From narrow to wide; the widest holds the longest sequence."""
    widest = -(-longest // WIDTH)
    return sorted({-(-widest // 2**halved) * WIDTH for halved in range(MAX_WIDTHS)})
