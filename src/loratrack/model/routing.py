"""Routing: each member's tokens through its own LoRA matrices, all members in one training forward.

PEFT owns the matrices. What is ours is the product: the tokens of all members pass the frozen layer
together, and to each slice is added what its own member learned. Nothing that a member computes depends on
the members beside it; its dropout is a pure function of its seed, its step and the layer, so it needs no
random state and survives recomputation.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loratrack.errors import UserError
from loratrack.model.batch import Arrays, Batch, BatchLayout
from loratrack.model.dropout import Draws, Dropout, draw_arrays, drop, drop_, factors
from loratrack.model.flat_parameters import FlatParameters

ALIGNMENT = 8
"""Grouped products want rows of 16 bytes: ranks are filled up with zeros to a multiple of this."""


@dataclass(frozen=True)
class Route:
    """Which member owns which slice of the flattened tokens of the batch in hand."""

    members: tuple[str, ...]
    slots: tuple[int, ...]
    tokens: tuple[int, ...]
    real_tokens: Tensor | None
    dropout: tuple[Dropout, ...] | None
    """None: nothing is dropped, as in evaluation."""
    ends: Tensor | None = None
    """On a GPU: where each slice ends."""
    draws: Draws | None = None
    """On a GPU, where something is dropped."""


@dataclass(frozen=True)
class Adapter:
    """A member's two matrices at one layer, in the base's number format, and their gradients in fp32."""

    down: Tensor
    """[rank, in]"""
    up: Tensor
    """[out, rank]"""
    down_gradient: Tensor
    up_gradient: Tensor
    scaling: float


class Router:
    """Takes over the forward of every LoRA layer of a network, while a route is set."""

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}
        """What each member drops."""
        self._route: Route | None = None
        self._trained: dict[str, FlatParameters] = {}
        self._layers: dict[str, _RoutedLayer] = {}

    def attach(self, network: nn.Module, member: str, trained: FlatParameters, dropout_share: float) -> None:
        """Route the layers that `member` adapts, with its matrices as `trained` has them."""
        self.shares[member], self._trained[member] = dropout_share, trained
        for name, module in network.named_modules():
            if isinstance(module, LoraLayer) and member in module.lora_A:
                if name not in self._layers:
                    self._layers[name] = _RoutedLayer(self, module, name)
                    module.forward = self._layers[name]
                self._layers[name].adapters[member] = _adapter(module, member, trained)

    def detach(self, member: str) -> None:
        del self.shares[member], self._trained[member]
        for layer in self._layers.values():
            layer.adapters.pop(member, None)

    @contextmanager
    def on(
        self, batch: Batch, members: Sequence[str], dropout: Sequence[Dropout] | None = None
    ) -> Iterator[None]:
        """The route of one step, its backward pass included."""
        for member in members:
            self._trained[member].refresh()
        self._route = self._way(batch, members, dropout)
        try:
            yield
        finally:
            self._route = None

    @property
    def route(self) -> Route:
        assert self._route is not None, "a routed network is called inside `with router.on(…)`"
        return self._route

    @property
    def is_aligned(self) -> bool:
        """Whether every layer can take all members in one product."""
        return all(
            size % ALIGNMENT == 0 for layer in self._layers.values() for size in layer.base.weight.shape
        )

    @property
    def anchor(self) -> Tensor:
        """Something trained: what comes of it is part of the backward pass."""
        return self._trained[self.route.members[0]].matrices

    def arrays(
        self, batch_layout: BatchLayout, members: Sequence[str], dropout: Sequence[Dropout] | None
    ) -> Arrays:
        """What a GPU needs of a route: where slices end, and what dropout is drawn from."""
        slots = batch_layout.slots_each
        found: Arrays = {"ends": np.cumsum(slots, dtype=np.int32)}
        if dropout is None or not self._drops(members):
            return found
        shares = [self.shares[member] for member in members]
        return found | draw_arrays(
            dropout, shares, batch_layout.tokens, slots, batch_layout.arrays.get("real_tokens")
        )

    def _drops(self, members: Sequence[str]) -> bool:
        return any(self.shares[member] > 0 for member in members)

    def _way(self, batch: Batch, members: Sequence[str], dropout: Sequence[Dropout] | None) -> Route:
        return Route(
            members=tuple(members),
            slots=batch.slots_each,
            tokens=batch.tokens,
            real_tokens=batch.real_tokens,
            dropout=tuple(dropout) if dropout is not None and self._drops(members) else None,
            ends=batch.more.get("ends"),
            draws=Draws(batch.more["drop_keys"], batch.more["drop_bounds"])
            if "drop_keys" in batch.more
            else None,
        )


class _RoutedLayer:
    """The forward of one LoRA layer: the frozen product, and what each member adds to its own tokens."""

    def __init__(self, router: Router, layer: LoraLayer, name: str) -> None:
        self.router, self.base = router, layer.get_base_layer()
        assert isinstance(self.base, nn.Linear | Conv1D), "targets are linear"
        self.number = zlib.crc32(name.encode())
        """By name, not by count: the neighbours' layers must not change a member's dropout."""
        self.adapters: dict[str, Adapter] = {}

    def __call__(self, x: Tensor) -> Tensor:
        way = self.router.route
        if not any(member in self.adapters for member in way.members):
            result: Tensor = self.base(x)
            return result
        lines = x.numel() // x.shape[-1]
        if lines != sum(way.slots):
            way = _of_all_lines(way, lines)
        adapted: Tensor = _Adapted.apply(x, self.router.anchor, self, way)  # type: ignore[no-untyped-call]
        return adapted

    def dropped(self, way: Route, features: int) -> Tensor | None:
        """What is dropped of the flattened tokens: on a CPU the places, on a GPU a factor for each."""
        if way.draws is not None:
            return factors(way.draws, self.number, features)
        if way.dropout is None:
            return None
        parts, start = [np.empty(0, dtype=np.int64)], 0
        for member, tokens, dropout in zip(way.members, way.tokens, way.dropout, strict=True):
            share = self.router.shares[member] if member in self.adapters else 0.0
            if share > 0:
                parts.append(start * features + dropout.places(self.number, tokens * features, share))
            start += tokens
        places = torch.from_numpy(np.concatenate(parts))
        if way.real_tokens is None:
            return places
        return way.real_tokens[places // features] * features + places % features

    def products(self, way: Route, x: Tensor) -> _OneByOne | _Grouped:
        adapters = [self.adapters.get(member) for member in way.members]
        shares = [0.0 if way.dropout is None else self.router.shares[member] for member in way.members]
        scales = [
            0.0 if adapter is None else adapter.scaling / (1 - share)
            for adapter, share in zip(adapters, shares, strict=True)
        ]
        outputs = self.base.weight.numel() // x.shape[-1]
        aligned = x.shape[-1] % ALIGNMENT == 0 and outputs % ALIGNMENT == 0
        if way.ends is None or len(adapters) == 1 or x.dtype != torch.bfloat16 or not aligned:
            return _OneByOne(adapters, scales, way.slots)
        return _Grouped(adapters, scales, way.ends, x, outputs)


class _Adapted(torch.autograd.Function):
    """`base(x) + scaling * up(down(dropout(x)))`, each slice of the tokens with its own member's matrices.

    The gradients of the matrices go where the adapters say; autograd is given that of `x` alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: _RoutedLayer, way: Route) -> Tensor:
        result: Tensor = layer.base(x)
        flat = x.reshape(-1, x.shape[-1])
        dropped = layer.dropped(way, flat.shape[-1])
        seen = flat if dropped is None else drop(flat, dropped)
        ctx.layer, ctx.products = layer, layer.products(way, flat)
        inner = ctx.products.add(result.view(-1, result.shape[-1]), seen)
        ctx.save_for_backward(seen, dropped, *inner)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        seen, dropped, *inner = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        back = torch.empty_like(seen) if ctx.needs_input_grad[0] else None
        ctx.products.learn(grad, seen, inner, back)
        if back is None:
            return None, None, None, None
        if dropped is not None:
            drop_(back, dropped)
        base = ctx.layer.base
        back.addmm_(grad, base.weight.T if isinstance(base, Conv1D) else base.weight)
        return back.view(*grads[0].shape[:-1], -1), None, None, None


class _OneByOne:
    """The members' products one after the other, on views of the tokens: nothing is copied or filled up."""

    def __init__(
        self, adapters: Sequence[Adapter | None], scales: Sequence[float], slots: Sequence[int]
    ) -> None:
        ends = np.cumsum(slots).tolist()
        places = [slice(end - size, end) for end, size in zip(ends, slots, strict=True)]
        parts = zip(adapters, scales, places, strict=True)
        self.parts = [(adapter, scale, place) for adapter, scale, place in parts if adapter is not None]
        self.is_whole = len(self.parts) == len(places)

    def add(self, out: Tensor, x: Tensor) -> list[Tensor]:
        """What the members learned, added to `out`; returns their inner products."""
        inner = [x[place] @ adapter.down.T for adapter, _, place in self.parts]
        for product, (adapter, scale, place) in zip(inner, self.parts, strict=True):
            out[place].addmm_(product, adapter.up.T, alpha=scale)
        return inner

    def learn(self, grad: Tensor, x: Tensor, inner: Sequence[Tensor], back: Tensor | None) -> None:
        """Gradients of the matrices, and into `back` that of `x`."""
        if back is not None and not self.is_whole:
            back.zero_()
        for product, (adapter, scale, place) in zip(inner, self.parts, strict=True):
            mine = grad[place]
            inner_grad = (mine @ adapter.up).mul_(scale)
            adapter.up_gradient.add_((product.T @ mine).T, alpha=scale)
            adapter.down_gradient.add_(inner_grad.T @ x[place])
            if back is not None:
                torch.mm(inner_grad, adapter.down, out=back[place])


class _Grouped:
    """One product for all members: many small ones would keep a GPU waiting."""

    def __init__(
        self,
        adapters: Sequence[Adapter | None],
        scales: Sequence[float],
        ends: Tensor,
        x: Tensor,
        outputs: int,
    ) -> None:
        self.adapters, self.scales, self.ends = adapters, scales, ends
        width = max(adapter.down.shape[0] for adapter in adapters if adapter is not None)
        width = -(-width // ALIGNMENT) * ALIGNMENT
        downs, ups = [], []
        for adapter in adapters:
            if adapter is None:  # it does not train this layer: zeros change nothing
                downs.append(x.new_zeros(width, x.shape[-1]))
                ups.append(x.new_zeros(outputs, width))
                continue
            missing = width - adapter.down.shape[0]
            downs.append(F.pad(adapter.down, (0, 0, 0, missing)) if missing else adapter.down)
            ups.append(F.pad(adapter.up, (0, missing)) if missing else adapter.up)
        self.downs, self.ups = torch.stack(downs), torch.stack(ups)
        self.ups.mul_(_factor_of_each(tuple(scales), x.dtype, x.device))

    def add(self, out: Tensor, x: Tensor) -> list[Tensor]:
        inner = F.grouped_mm(x, self.downs.transpose(1, 2), offs=self.ends)
        out.add_(F.grouped_mm(inner, self.ups.transpose(1, 2), offs=self.ends))
        return [inner]

    def learn(self, grad: Tensor, x: Tensor, inner: Sequence[Tensor], back: Tensor | None) -> None:
        inner_grad = F.grouped_mm(grad, self.ups, offs=self.ends)
        downs = F.grouped_mm(inner_grad.T, x, offs=self.ends).float()
        ups = F.grouped_mm(inner[0].T, grad, offs=self.ends).float()
        targets, found = [], []
        for adapter, scale, down, up in zip(self.adapters, self.scales, downs, ups, strict=True):
            if adapter is not None:
                rank = adapter.down.shape[0]
                targets += [adapter.down_gradient, adapter.up_gradient]
                found += [down[:rank], up[:rank].T * scale]
        torch._foreach_add_(targets, found)
        if back is not None:
            back.copy_(F.grouped_mm(inner_grad, self.downs, offs=self.ends))


def _of_all_lines(way: Route, lines: int) -> Route:
    """Of a layer given something else than the tokens, like DeBERTa's positions: one member's, undropped."""
    if len(way.members) > 1:
        raise UserError(
            "model.arch: this base adapts its positions with its tokens, so its members cannot be trained"
            " together; set sweep.parallel=1"
        )
    return replace(way, slots=(lines,), dropout=None, draws=None)


def _adapter(layer: LoraLayer, member: str, trained: FlatParameters) -> Adapter:
    down, up = layer.lora_A[member].weight, layer.lora_B[member].weight
    return Adapter(trained.cast(down), trained.cast(up), down.grad, up.grad, layer.scaling[member])


@functools.lru_cache(maxsize=1024)
def _factor_of_each(scales: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[members, 1, 1]; sent once, since a transfer in the middle of a pass would hold it up."""
    return torch.tensor(scales, dtype=dtype).to(device)[:, None, None]
