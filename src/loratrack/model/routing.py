"""Routing: each member's tokens through its own LoRA matrices, all members in one training forward.

    x    | tokens of member 0 | tokens of member 1 | tokens of member 2 |    [tokens, in]
              |                    |                    |
              +---------- frozen base layer, one product ---------------> result [tokens, out]
              |                    |                    |
           lora_A 0             lora_A 1             lora_A 2               [rank, in]
           lora_B 0             lora_B 1             lora_B 2               [out, rank]
              |                    |                    |
              +----- added in place to that slice of `result`, times its scaling

With `use_dora` each row of W + scaling*B@A is brought to a length that is trained too: see `_Decomposed`.

PEFT owns the matrices; it refuses `adapter_names` in training mode, so the product is ours. Nothing that a
member computes depends on the members beside it; its dropout is a pure function of its seed, its step and
the layer, so it needs no random state and survives recomputation.
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

RANK_MULTIPLE = 8
"""Grouped products want rows of 16 bytes, 8 numbers in bf16: ranks are padded with zeros to a multiple."""


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

    lora_A: Tensor
    """[rank, in]"""
    lora_B: Tensor
    """[out, rank]"""
    lora_A_grad: Tensor
    lora_B_grad: Tensor
    scaling: float
    dora: Dora | None = None


@dataclass(frozen=True)
class Dora:
    """What DoRA trains besides: the length that each row of the whole weight shall have. In fp32."""

    magnitude: Tensor
    """[out]"""
    magnitude_grad: Tensor


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
        trained.refresh()
        for name, module in network.named_modules():
            if isinstance(module, LoraLayer) and member in module.lora_A:
                if name not in self._layers:
                    self._layers[name] = _RoutedLayer(self, module, name)
                    module.forward = self._layers[name]
                lora_A, lora_B = module.lora_A[member].weight, module.lora_B[member].weight
                dora = None
                if member in module.lora_magnitude_vector:
                    magnitude = module.lora_magnitude_vector[member].weight
                    dora = Dora(magnitude.detach(), magnitude.grad)
                adapter = self._layers[name].adapters[member] = Adapter(
                    lora_A=trained.cast(lora_A),
                    lora_B=trained.cast(lora_B),
                    lora_A_grad=lora_A.grad,
                    lora_B_grad=lora_B.grad,
                    scaling=module.scaling[member],
                    dora=dora,
                )
                if dora is not None:
                    # PEFT measures in the base's format: in bf16 that is 0.4 % off, and changes the base
                    dora.magnitude.copy_(_row_lengths(self._layers[name].weight, adapter))

    def detach(self, member: str) -> None:
        del self.shares[member], self._trained[member]
        for layer in self._layers.values():
            layer.adapters.pop(member, None)

    @contextmanager
    def on(
        self, batch: Batch, members: Sequence[str], dropout: Sequence[Dropout] | None = None
    ) -> Iterator[None]:
        """Set the route for one pass, its backward included: gradients go where the route says."""
        for member in members:
            self._trained[member].refresh()
        self._route = Route(
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
            size % RANK_MULTIPLE == 0 for layer in self._layers.values() for size in layer.base.weight.shape
        ) and not any(adapter.dora for layer in self._layers.values() for adapter in layer.adapters.values())

    @property
    def anchor(self) -> Tensor:
        """A trained tensor. As an input of `_Adapted` it makes autograd call our backward."""
        return self._trained[self.route.members[0]].matrices

    def arrays(
        self, batch_layout: BatchLayout, members: Sequence[str], dropout: Sequence[Dropout] | None
    ) -> Arrays:
        """What a GPU needs of a route: where slices end, and what dropout is drawn from."""
        slots = batch_layout.slots_each
        ends: Arrays = {"ends": np.cumsum(slots, dtype=np.int32)}
        if dropout is None or not self._drops(members):
            return ends
        shares = [self.shares[member] for member in members]
        return ends | draw_arrays(
            dropout, shares, batch_layout.tokens, slots, batch_layout.arrays.get("real_tokens")
        )

    def _drops(self, members: Sequence[str]) -> bool:
        return any(self.shares[member] > 0 for member in members)


class _RoutedLayer:
    """The forward of one LoRA layer: the frozen product, and what each member adds to its own tokens."""

    def __init__(self, router: Router, layer: LoraLayer, name: str) -> None:
        self.router, self.base = router, layer.get_base_layer()
        assert isinstance(self.base, nn.Linear | Conv1D), "targets are linear"
        self.number = zlib.crc32(name.encode())
        """By name, not by count: the neighbours' layers must not change a member's dropout."""
        self.adapters: dict[str, Adapter] = {}

    @property
    def weight(self) -> Tensor:
        """[out, in]"""
        weight: Tensor = self.base.weight
        return weight.T if isinstance(self.base, Conv1D) else weight

    def __call__(self, x: Tensor) -> Tensor:
        route = self.router.route
        if not any(member in self.adapters for member in route.members):
            result: Tensor = self.base(x)
            return result
        rows = x.numel() // x.shape[-1]
        if rows != sum(route.slots):
            # a layer given something else than the tokens, like DeBERTa's relative positions
            if len(route.members) > 1:
                raise UserError(
                    "model.arch: this base adapts its positions with its tokens, so its members cannot be"
                    " trained together; set sweep.parallel=1"
                )
            route = replace(route, slots=(rows,), dropout=None, draws=None)
        # Flat before and after: some bases write into what a layer gives, which autograd allows in a view of
        # an output, and forbids where the output is a view itself.
        flat = x.reshape(-1, x.shape[-1])
        adapted: Tensor = _Adapted.apply(flat, self.router.anchor, self, route)  # type: ignore[no-untyped-call]
        return adapted.view(*x.shape[:-1], -1)

    def dropped(self, route: Route, features: int) -> Tensor | None:
        """What is dropped of the flattened tokens: on a CPU the indices, on a GPU a factor for each number.

        Few numbers are dropped, so a CPU writes zeros there and never reads the rest. A GPU multiplies faster
        than it scatters.
        """
        if route.draws is not None:
            return factors(route.draws, self.number, features)
        if route.dropout is None:
            return None
        parts, start = [np.empty(0, dtype=np.int64)], 0
        for member, tokens, dropout in zip(route.members, route.tokens, route.dropout, strict=True):
            share = self.router.shares[member] if member in self.adapters else 0.0
            if share > 0:
                parts.append(start * features + dropout.indices(self.number, tokens * features, share))
            start += tokens
        indices = torch.from_numpy(np.concatenate(parts))
        if route.real_tokens is None:
            return indices
        # padded batches: the draw is over real tokens alone, so that padding changes no member's dropout
        return route.real_tokens[indices // features] * features + indices % features

    def products(self, route: Route, x: Tensor) -> _OneByOne | _Grouped | _Decomposed:
        adapters = [self.adapters.get(member) for member in route.members]
        shares = [0.0 if route.dropout is None else self.router.shares[member] for member in route.members]
        if any(adapter is not None and adapter.dora for adapter in adapters):
            return _Decomposed(self, adapters, shares, route.slots)
        scales = [
            0.0 if adapter is None else adapter.scaling / (1 - share)
            for adapter, share in zip(adapters, shares, strict=True)
        ]
        outputs = self.base.weight.numel() // x.shape[-1]
        aligned = x.shape[-1] % RANK_MULTIPLE == 0 and outputs % RANK_MULTIPLE == 0
        # A grouped product pays where launches are dear: on a GPU (`ends` is there), with several members.
        # On a CPU it would copy and pad the matrices for nothing.
        if route.ends is None or len(adapters) == 1 or x.dtype != torch.bfloat16 or not aligned:
            return _OneByOne(adapters, scales, route.slots)
        return _Grouped(adapters, scales, route.ends, x, outputs)


class _Adapted(torch.autograd.Function):
    """`base(x) + scaling * lora_B(lora_A(dropout(x)))`, each slice of tokens with its own member's matrices.

    One autograd node for a layer and all members. Its backward adds the gradients of lora_A and lora_B to
    the tensors behind their `.grad` by itself, and returns the gradient of `x` alone. That is fast, but:

    - forward and backward hooks on the lora_A, lora_B and dropout modules never run: they are not called;
    - `torch.autograd.grad(loss, lora_parameter)` raises, since the graph does not know these parameters;
    - DistributedDataParallel's reducer, which hooks the accumulation of gradients, sees none;
    - `zero_grad(set_to_none=True)` cuts `.grad` off from the tensor that backward adds to, so the optimizer
      would see no gradient. `FlatParameters.zero_grad` zeroes in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: _RoutedLayer, route: Route) -> Tensor:
        result: Tensor = layer.base(x)
        dropped = layer.dropped(route, x.shape[-1])
        seen = x if dropped is None else drop(x, dropped)
        ctx.layer, ctx.products = layer, layer.products(route, x)
        inner = ctx.products.add(result, seen)
        ctx.save_for_backward(seen, dropped, *inner)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        seen, dropped, *inner = ctx.saved_tensors
        grad = grads[0].contiguous()
        x_grad = torch.empty_like(seen) if ctx.needs_input_grad[0] else None
        ctx.products.backward(grad, seen, inner, x_grad)
        if x_grad is None:
            return None, None, None, None
        if dropped is not None:
            drop_(x_grad, dropped)
        x_grad.addmm_(grad, ctx.layer.weight)
        return x_grad, None, None, None


class _OneByOne:
    """The members' products one after the other, on views of the tokens: nothing is copied or padded."""

    def __init__(
        self, adapters: Sequence[Adapter | None], scales: Sequence[float], slots: Sequence[int]
    ) -> None:
        ends = np.cumsum(slots).tolist()
        slices = [slice(end - size, end) for end, size in zip(ends, slots, strict=True)]
        parts = zip(adapters, scales, slices, strict=True)
        self.parts = [(adapter, scale, part) for adapter, scale, part in parts if adapter is not None]
        self.is_whole = len(self.parts) == len(slices)

    def add(self, out: Tensor, x: Tensor) -> list[Tensor]:
        """Add what the members learned to `out`; returns `x @ lora_A.T` of each."""
        inner = [x[part] @ adapter.lora_A.T for adapter, _, part in self.parts]
        for product, (adapter, scale, part) in zip(inner, self.parts, strict=True):
            out[part].addmm_(product, adapter.lora_B.T, alpha=scale)
        return inner

    def backward(self, grad: Tensor, x: Tensor, inner: Sequence[Tensor], x_grad: Tensor | None) -> None:
        """Add the gradients of the matrices to theirs, and write that of `x` into `x_grad`."""
        if x_grad is not None and not self.is_whole:
            x_grad.zero_()
        for product, (adapter, scale, part) in zip(inner, self.parts, strict=True):
            own_grad = grad[part]
            inner_grad = (own_grad @ adapter.lora_B).mul_(scale)
            adapter.lora_B_grad.add_((product.T @ own_grad).T, alpha=scale)
            adapter.lora_A_grad.add_(inner_grad.T @ x[part])
            if x_grad is not None:
                torch.mm(inner_grad, adapter.lora_A, out=x_grad[part])


class _Decomposed:
    """Members one after the other where DoRA is among them; those without it as ever.

    With V = W + scaling*B@A and s = magnitude / |V| row by row, the output is bias + s * (x @ V.T). |V| is
    a constant, as in DoRA's paper: no gradient flows through it. Where x drops, PEFT lets W see what is left
    of it: the output is base(x) - seen + s * (seen + LoRA), with seen = dropout(x) @ W.T.
    """

    def __init__(
        self,
        layer: _RoutedLayer,
        adapters: Sequence[Adapter | None],
        shares: Sequence[float],
        slots: Sequence[int],
    ) -> None:
        ends = np.cumsum(slots).tolist()
        self.weight, self.bias = layer.weight, layer.base.bias
        self.parts = [
            (adapter, 1 / (1 - share), slice(end - size, end))
            for adapter, share, end, size in zip(adapters, shares, ends, slots, strict=True)
        ]

    def add(self, out: Tensor, x: Tensor) -> list[Tensor]:
        """Add what the members learned to `out`; returns what `backward` needs, member by member."""
        kept: list[Tensor] = []
        for adapter, upscale, part in self.parts:
            if adapter is None:
                continue
            inner, scale = x[part] @ adapter.lora_A.T, adapter.scaling * upscale
            kept.append(inner)
            if adapter.dora is None:
                out[part].addmm_(inner, adapter.lora_B.T, alpha=scale)
                continue
            lengths = _row_lengths(self.weight, adapter)
            if upscale == 1:
                seen = out[part] if self.bias is None else out[part] - self.bias
                rest: Tensor | None = self.bias
            else:
                seen = (x[part] @ self.weight.T).mul_(upscale)
                rest = out[part] - seen
            whole = seen.addmm(inner, adapter.lora_B.T, alpha=scale)
            turned = whole * (adapter.dora.magnitude / lengths)
            out[part] = turned if rest is None else turned + rest
            kept += [whole, lengths]
        return kept

    def backward(self, grad: Tensor, x: Tensor, kept: Sequence[Tensor], x_grad: Tensor | None) -> None:
        """Add the gradients of what is trained to theirs, and write that of `x` into `x_grad`."""
        values = iter(kept)
        for adapter, upscale, part in self.parts:
            if adapter is None:
                if x_grad is not None:
                    x_grad[part].zero_()
                continue
            own_grad, inner, scale = grad[part], next(values), adapter.scaling * upscale
            turned_grad = own_grad
            if adapter.dora is not None:
                whole, lengths = next(values), next(values)
                adapter.dora.magnitude_grad.add_((own_grad * whole).sum(dim=0, dtype=torch.float32) / lengths)
                turned_grad = (own_grad * (adapter.dora.magnitude / lengths)).to(grad.dtype)
            inner_grad = (turned_grad @ adapter.lora_B).mul_(scale)
            adapter.lora_B_grad.add_((inner.T @ turned_grad).T, alpha=scale)
            adapter.lora_A_grad.add_(inner_grad.T @ x[part])
            if x_grad is not None:
                torch.mm(inner_grad, adapter.lora_A, out=x_grad[part])
                if adapter.dora is not None:
                    x_grad[part].addmm_(turned_grad - own_grad, self.weight, alpha=upscale)


def _row_lengths(weight: Tensor, adapter: Adapter) -> Tensor:
    """Of the base's weight and what the adapter adds to it, [out], in fp32."""
    update = adapter.lora_B.float() @ adapter.lora_A.float()
    lengths: Tensor = torch.linalg.vector_norm(weight.float().add(update, alpha=adapter.scaling), dim=1)
    return lengths


class _Grouped:
    """One product for all members: a GPU would wait for the launches of many small ones."""

    def __init__(
        self,
        adapters: Sequence[Adapter | None],
        scales: Sequence[float],
        ends: Tensor,
        x: Tensor,
        outputs: int,
    ) -> None:
        self.adapters, self.scales, self.ends = adapters, scales, ends
        width = max(adapter.lora_A.shape[0] for adapter in adapters if adapter is not None)
        width = -(-width // RANK_MULTIPLE) * RANK_MULTIPLE
        lora_As, lora_Bs = [], []
        for adapter in adapters:
            if adapter is None:  # it does not train this layer: zeros change nothing
                lora_As.append(x.new_zeros(width, x.shape[-1]))
                lora_Bs.append(x.new_zeros(outputs, width))
                continue
            missing = width - adapter.lora_A.shape[0]
            lora_As.append(F.pad(adapter.lora_A, (0, 0, 0, missing)) if missing else adapter.lora_A)
            lora_Bs.append(F.pad(adapter.lora_B, (0, missing)) if missing else adapter.lora_B)
        self.lora_As, self.lora_Bs = torch.stack(lora_As), torch.stack(lora_Bs)
        self.lora_Bs.mul_(_factor_of_each(tuple(scales), x.dtype, x.device))

    def add(self, out: Tensor, x: Tensor) -> list[Tensor]:
        inner = F.grouped_mm(x, self.lora_As.transpose(1, 2), offs=self.ends)
        out.add_(F.grouped_mm(inner, self.lora_Bs.transpose(1, 2), offs=self.ends))
        return [inner]

    def backward(self, grad: Tensor, x: Tensor, inner: Sequence[Tensor], x_grad: Tensor | None) -> None:
        inner_grad = F.grouped_mm(grad, self.lora_Bs, offs=self.ends)
        lora_A_grads = F.grouped_mm(inner_grad.T, x, offs=self.ends).float()
        lora_B_grads = F.grouped_mm(inner[0].T, grad, offs=self.ends).float()
        targets, gradients = [], []
        for adapter, scale, a_grad, b_grad in zip(
            self.adapters, self.scales, lora_A_grads, lora_B_grads, strict=True
        ):
            if adapter is not None:
                rank = adapter.lora_A.shape[0]
                targets += [adapter.lora_A_grad, adapter.lora_B_grad]
                gradients += [a_grad[:rank], b_grad[:rank].T * scale]
        torch._foreach_add_(targets, gradients)
        if x_grad is not None:
            x_grad.copy_(F.grouped_mm(inner_grad, self.lora_As, offs=self.ends))


@functools.lru_cache(maxsize=1024)
def _factor_of_each(scales: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[members, 1, 1]; sent once and kept, since a transfer in the middle of a pass would stall it."""
    return torch.tensor(scales, dtype=dtype).to(device)[:, None, None]
