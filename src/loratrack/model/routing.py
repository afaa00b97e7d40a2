"""Routing: each member's tokens through its own LoRA matrices, all members in one training forward.

PEFT owns the matrices. What is ours is the product: the tokens of all members pass the frozen layer
together, and one grouped product adds to each slice what its own member learned. Nothing that a member
computes depends on the members beside it; its dropout is a pure function of its seed, its step and the
layer, so it needs no random state and survives recomputation.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loratrack.model.batch import Batch

ALIGNMENT = 8
"""Grouped products want rows of 16 bytes: ranks are filled up with zeros to a multiple of this."""
DROPOUT_STEPS = 2**16
"""Dropout is drawn in steps of 1/65536, four draws from each random word."""


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
        a, b = _matrices(layer, owners[0], x.dtype)
        return F.linear(F.linear(x, a), b)
    sizes = [0 if owner is None else layer.r[owner] for owner in owners]
    width = -(-max(sizes) // ALIGNMENT) * ALIGNMENT
    down, up = _stacks(layer, owners, width, x)
    return grouped_product(grouped_product(x, down, way.slots), up, way.slots)


def grouped_product(x: Tensor, weights: Tensor, sizes: Sequence[int]) -> Tensor:
    """Each slice of `x` by its own matrix: [rows, in] by [members, in, out], one product for all."""
    if len(set(sizes)) == 1:
        return torch.bmm(x.view(len(sizes), -1, x.shape[-1]), weights).flatten(0, 1)
    if x.dtype == torch.bfloat16 and all(width % ALIGNMENT == 0 for width in weights.shape[1:]):
        ends = torch.tensor(sizes).cumsum(0).to(torch.int32).to(x.device, non_blocking=True)
        return F.grouped_mm(x, weights, offs=ends)
    slices = torch.split(x, list(sizes))
    return torch.cat([part @ weight for part, weight in zip(slices, weights, strict=True)])


def _matrices(layer: LoraLayer, member: str | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert member is not None
    a, b = layer.lora_A[member].weight, layer.lora_B[member].weight
    return a.to(dtype), (b * layer.scaling[member]).to(dtype)


def _stacks(layer: LoraLayer, owners: Sequence[str | None], width: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """[members, in, rank] and [members, rank, out], ranks filled up with zeros to one width.

    A member that does not train this layer gets zeros.
    """
    downs, ups = [], []
    for owner in owners:
        if owner is None:
            downs.append(x.new_zeros(width, layer.in_features))
            ups.append(x.new_zeros(layer.out_features, width))
            continue
        a, b = _matrices(layer, owner, x.dtype)
        downs.append(F.pad(a, (0, 0, 0, width - a.shape[0])))
        ups.append(F.pad(b, (0, width - b.shape[1])))
    return torch.stack(downs).transpose(1, 2), torch.stack(ups).transpose(1, 2)


def _drop(x: Tensor, layer: LoraLayer, way: Route, number: int) -> Tensor:
    shares = [_dropout_share(layer, member) for member in way.members]
    if way.dropout is None or not any(shares):
        return x
    parts = [
        _kept(tokens, x, drop.key(number), share)
        for tokens, drop, share in zip(way.tokens, way.dropout, shares, strict=True)
    ]
    mask = parts[0] if len(parts) == 1 else torch.cat(parts)
    if way.real_tokens is not None:
        mask = x.new_ones(x.shape).index_copy_(0, way.real_tokens, mask)
    return x * mask


def _dropout_share(layer: LoraLayer, member: str) -> float:
    dropout = dict(layer.lora_dropout.items()).get(member)
    return float(dropout.p) if isinstance(dropout, nn.Dropout) else 0.0


def _kept(tokens: int, x: Tensor, key: int, share: float) -> Tensor:
    """[tokens, features] with 0 where dropped and 1 / (1 - share) where kept."""
    features = x.shape[-1]
    if share == 0:
        return x.new_ones(tokens, features)
    generator = torch.Generator(x.device).manual_seed(key)
    words = torch.empty(-(-tokens * features // 4), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    draws = words.view(torch.int16)[: tokens * features].view(tokens, features)
    limit = round(share * DROPOUT_STEPS)
    keep = draws >= limit - DROPOUT_STEPS // 2
    return keep.to(x.dtype).mul_(DROPOUT_STEPS / (DROPOUT_STEPS - limit))
