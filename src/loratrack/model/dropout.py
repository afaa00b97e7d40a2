"""Dropout as a pure function of seed, step, micro-batch and layer: no random state, and no neighbour in it.

A CPU is given the indices that are dropped. A GPU draws for itself, from a key for each token.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.model.batch import Arrays
from loratrack.model.packing import send

DRAWS = 2**31
"""A draw on a GPU is a whole number below this."""


@dataclass(frozen=True)
class Dropout:
    """One member's dropout at one micro-batch: the same numbers whoever trains beside it."""

    seed: int
    step: int
    micro_batch: int

    def key(self, layer: int) -> int:
        # A large odd multiplier for each part keeps neighbouring seeds and steps apart.
        parts = (self.seed, self.step, self.micro_batch, layer)
        factors = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
        key = 0
        for part, factor in zip(parts, factors, strict=True):
            key = ((key ^ (part + 1)) * factor) % 2**64
            key ^= key >> 29
        return key % 2**63

    def indices(self, layer: int, count: int, share: float) -> NDArray[np.int64]:
        """Indices to drop, each with probability `share`; may repeat.

        Poisson-many uniform draws hit every index independently, and cost as much as is dropped, not `count`.
        """
        rng = np.random.Generator(np.random.SFC64(self.key(layer)))
        return rng.integers(0, count, rng.poisson(-math.log1p(-share) * count))

    def token_keys(self, tokens: int) -> NDArray[np.int32]:
        """A number for each token, from which a GPU draws by itself."""
        numbers = np.arange(tokens, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return _mixed(numbers + np.uint64(self.key(0))).astype(np.uint32).view(np.int32)


@dataclass(frozen=True)
class Draws:
    """What dropout on a GPU is drawn from."""

    keys: Tensor
    """[slots, 1] a number of its own for each flattened token."""
    bounds: Tensor
    """[slots, 1] draws below it drop."""


def drop(x: Tensor, dropped: Tensor) -> Tensor:
    """`x` with zeros where something is dropped."""
    return x * dropped if dropped.is_floating_point() else drop_(x.clone(), dropped)


def drop_(x: Tensor, dropped: Tensor) -> Tensor:
    """Zeros in `x` itself: at the indices, or where the factor is zero."""
    if dropped.is_floating_point():
        return x.mul_(dropped)
    x.view(-1).index_fill_(0, dropped, 0)
    return x


def draw_arrays(
    dropout: Sequence[Dropout],
    shares: Sequence[float],
    tokens: Sequence[int],
    slots: Sequence[int],
    real_tokens: NDArray[np.int64] | None,
) -> Arrays:
    """What becomes `Draws` on a GPU, for members side by side."""
    keys = np.concatenate([each.token_keys(count) for each, count in zip(dropout, tokens, strict=True)])
    placed = np.zeros((sum(slots), 1), dtype=np.int32)
    placed[slice(len(keys)) if real_tokens is None else real_tokens, 0] = keys
    bounds = np.array([round(share * DRAWS) for share in shares], dtype=np.int32)
    return {"drop_keys": placed, "drop_bounds": np.repeat(bounds, slots)[:, None]}


def factors(draws: Draws, number: int, features: int) -> Tensor:
    """[slots, features] in bf16: 0 where dropped and 1 where kept, drawn from token, layer and feature."""
    hashed = draws.keys ^ _feature_keys(number, features, draws.keys.device)
    for factor, shift in ((0x7FEB352D, 15), (0x46CA68B5, 16)):  # a 32-bit mix (lowbias32), signs masked off
        hashed.mul_(factor)
        hashed ^= (hashed >> shift) & (2 ** (32 - shift) - 1)
    return ((hashed & (DRAWS - 1)) >= draws.bounds).to(torch.bfloat16)


@functools.lru_cache(maxsize=1024)
def _feature_keys(number: int, features: int, device: torch.device) -> Tensor:
    count = np.arange(features, dtype=np.uint64) + (np.uint64(number) << np.uint64(32))
    with torch.inference_mode(False):  # what is kept from one pass is used in the next
        return send(_mixed(count).astype(np.uint32).view(np.int32), device)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Neighbouring numbers far apart, in the upper half of each (splitmix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers >> np.uint64(32)
