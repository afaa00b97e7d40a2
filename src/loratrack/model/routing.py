"""Routing: each member's tokens through its own LoRA matrices, all members in one training forward.

PEFT owns the matrices. What is ours is the product: the tokens of all members pass the frozen layer
together, and one grouped product adds to each slice what its own member learned. Nothing that a member
computes depends on the members beside it; its dropout is a pure function of its seed, its step and the
layer, so it needs no random state and survives recomputation.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loratrack.model.batch import SHAPES, Batch
from loratrack.model.packing import collect, rounded_up, send, spread

ALIGNMENT = 8
"""Grouped products want rows of 16 bytes: ranks are filled up with zeros to a multiple of this."""
DROPOUT_STEPS = 2**15
"""Dropout is drawn in steps of 1/32768, four draws from each random word."""
ONE_IN_BF16 = 0x3F80
"""The bits of 1.0."""


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


@dataclass(frozen=True)
class Route:
    """Which member owns which slice of the flattened tokens of the batch in hand."""

    members: tuple[str, ...]
    slots: tuple[int, ...]
    tokens: tuple[int, ...]
    real_tokens: Tensor | None
    dropout: tuple[Dropout, ...] | None
    """None: nothing is dropped, as in evaluation."""


def route(batch: Batch, members: Sequence[str], dropout: Sequence[Dropout] | None = None) -> Route:
    return Route(
        members=tuple(members),
        slots=batch.slots_each,
        tokens=batch.tokens,
        real_tokens=batch.real_tokens,
        dropout=None if dropout is None else tuple(dropout),
    )


class Router:
    """Takes over the forward of every LoRA layer of a network, while a route is set."""

    def __init__(self) -> None:
        self._route: Route | None = None
        self._layers: list[LoraLayer] = []

    def attach(self, network: nn.Module) -> None:
        """Route every LoRA layer that is not routed yet."""
        for name, module in network.named_modules():
            if isinstance(module, LoraLayer) and module not in self._layers:
                assert isinstance(module.get_base_layer(), nn.Linear | Conv1D), "targets are linear"
                # By name, not by count: the neighbours' layers must not change a member's dropout.
                module.forward = _RoutedForward(self, module, zlib.crc32(name.encode()))
                self._layers.append(module)

    @contextmanager
    def on(self, route: Route) -> Iterator[None]:
        """The route of one step, its backward pass included."""
        self._route = route
        try:
            yield
        finally:
            self._route = None

    @property
    def route(self) -> Route:
        assert self._route is not None, "a routed network is called inside `with router.on(route)`"
        return self._route


class _RoutedForward:
    def __init__(self, router: Router, layer: LoraLayer, number: int) -> None:
        self.router, self.layer, self.number = router, layer, number

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer, way = self.layer, self.router.route
        result: Tensor = layer.base_layer(x, *args, **kwargs)
        if not any(member in layer.lora_A for member in way.members):
            return result
        flat = x.reshape(-1, x.shape[-1])
        dropped = _drop(flat, layer, way, self.number)
        update = _product(dropped, layer, way)
        return result + update.view_as(result)


def _product(x: Tensor, layer: LoraLayer, way: Route) -> Tensor:
    """`scaling * B(A(x))`, with each member's own A, B and scaling."""
    owners = [member if member in layer.lora_A else None for member in way.members]
    if len(owners) == 1:
        a, b = _matrices(layer, way, owners[0], x.dtype)
        return F.linear(F.linear(x, a), b)
    sizes = [0 if owner is None else layer.r[owner] for owner in owners]
    width = -(-max(sizes) // ALIGNMENT) * ALIGNMENT
    return grouped_products(x, _stacks(layer, way, owners, width, x), way.slots)


def grouped_products(x: Tensor, chain: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Each slice of `x` by its own matrices, one after the other: [rows, in] by [members, in, out].

    One product for all members. Slices of unlike sizes are filled up to one size; no number of one member
    ever meets one of another.
    """
    equal = len(set(sizes)) == 1
    if not equal and _has_grouped_kernel(x, chain):
        ends = torch.tensor(sizes).cumsum(0).to(torch.int32).to(x.device, non_blocking=True)
        for weights in chain:
            x = F.grouped_mm(x, weights, offs=ends)
        return x
    if equal:
        return _batched(x, chain, len(sizes))
    slots, places = _slices(tuple(sizes), x.device)
    return collect(_batched(spread(x, slots, places), chain, len(sizes)), places, len(x))


def _has_grouped_kernel(x: Tensor, chain: Sequence[Tensor]) -> bool:
    aligned = all(width % ALIGNMENT == 0 for weights in chain for width in weights.shape[1:])
    return x.device.type == "cuda" and x.dtype == torch.bfloat16 and aligned


def _batched(x: Tensor, chain: Sequence[Tensor], members: int) -> Tensor:
    parts = x.view(members, -1, x.shape[-1])
    for weights in chain:
        parts = torch.bmm(parts, weights)
    return parts.flatten(0, 1)


@functools.lru_cache(maxsize=8)
def _slices(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lines of equally long slices, each filled up with its own first line; and the places of all lines."""
    longest = rounded_up(max(sizes), SHAPES)
    starts = np.cumsum(sizes) - sizes
    columns = np.arange(longest)
    inside = columns < np.array(sizes)[:, None]
    slots = np.where(inside, starts[:, None] + columns, starts[:, None])
    with torch.inference_mode(False):  # what is kept from an evaluation may be used in training
        return send(slots.flatten(), device), send(np.flatnonzero(inside), device)


def _matrices(layer: LoraLayer, way: Route, member: str | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A and B, the latter scaled, also for what was dropped."""
    assert member is not None
    a, b = layer.lora_A[member].weight, layer.lora_B[member].weight
    scaling = layer.scaling[member] / (1 - _dropout_share(layer, way, member))
    return a.to(dtype), (b * scaling).to(dtype)


def _stacks(
    layer: LoraLayer, way: Route, owners: Sequence[str | None], width: int, x: Tensor
) -> tuple[Tensor, Tensor]:
    """[members, in, rank] and [members, rank, out], ranks filled up with zeros to one width.

    A member that does not train this layer gets zeros.
    """
    downs, ups = [], []
    for owner in owners:
        if owner is None:
            downs.append(x.new_zeros(width, layer.in_features))
            ups.append(x.new_zeros(layer.out_features, width))
            continue
        a, b = _matrices(layer, way, owner, x.dtype)
        downs.append(F.pad(a, (0, 0, 0, width - a.shape[0])))
        ups.append(F.pad(b, (0, width - b.shape[1])))
    return torch.stack(downs).transpose(1, 2), torch.stack(ups).transpose(1, 2)


def _drop(x: Tensor, layer: LoraLayer, way: Route, number: int) -> Tensor:
    """Zeros where something is dropped; `_matrices` makes up for the rest."""
    if way.dropout is None or not any(_dropout_share(layer, way, member) for member in way.members):
        return x
    parts = [
        _kept(tokens, x, drop.key(number), _dropout_share(layer, way, member))
        for member, tokens, drop in zip(way.members, way.tokens, way.dropout, strict=True)
    ]
    if way.real_tokens is not None:
        kept = torch.cat(parts)
        return x * x.new_ones(x.shape).index_copy_(0, way.real_tokens, kept)
    if sum(way.tokens) < len(x):
        parts.append(x.new_zeros(len(x) - sum(way.tokens), x.shape[-1]))
    return x * (parts[0] if len(parts) == 1 else torch.cat(parts))


def _dropout_share(layer: LoraLayer, way: Route, member: str) -> float:
    """The share that is dropped: what the config says, to the nearest of `DROPOUT_STEPS`."""
    if way.dropout is None or member not in layer.lora_dropout:
        return 0.0
    dropout = layer.lora_dropout[member]
    if not isinstance(dropout, nn.Dropout):
        return 0.0
    return min(round(dropout.p * DROPOUT_STEPS), DROPOUT_STEPS - 1) / DROPOUT_STEPS


def _kept(tokens: int, x: Tensor, key: int, share: float) -> Tensor:
    """[tokens, features] with 0 where dropped and 1 where kept."""
    features = x.shape[-1]
    if share == 0:
        return x.new_ones(tokens, features)
    draws = _random_words(-(-tokens * features // 4), key, x.device).view(torch.int16)
    draws = draws[: tokens * features].view(tokens, features)
    # 15 random bits less the bound are negative where dropped: the sign, spread over the word, is the mask.
    bound = round(share * DROPOUT_STEPS)
    dropped = draws.bitwise_and_(DROPOUT_STEPS - 1).sub_(bound).bitwise_right_shift_(15)
    return dropped.bitwise_not_().bitwise_and_(ONE_IN_BF16).view(torch.bfloat16).to(x.dtype)


def _random_words(count: int, key: int, device: torch.device) -> Tensor:
    """64 random bits each; numpy draws them five times as fast as torch does on a CPU."""
    if device.type == "cpu":
        words = np.random.Generator(np.random.SFC64(key)).integers(0, 2**64, count, dtype=np.uint64)
        return torch.from_numpy(words.view(np.int64))
    generator = torch.Generator(device).manual_seed(key)
    return torch.empty(count, dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
