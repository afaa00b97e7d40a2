"""Attention over packed rows: no token sees another sequence, and hardly any padding is computed.

The base is given one long row. Around the attention product alone, the tokens are moved into groups of
similar length, and back; every other product of the network works on real tokens only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from loratrack.model.batch import Bucket, Packing

PACKED = "loratrack_packed"
"""The name under which transformers finds this attention."""


class _Unpack(torch.autograd.Function):
    """Tokens to padded slots; padding gets some token's values and gives no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, slots: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return tokens.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grads[0].index_select(0, places), None, None


class _Repack(torch.autograd.Function):
    """Padded slots back to tokens."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.num_slots = padded.shape[0]
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        padded = grads[0].new_zeros(ctx.num_slots, *grads[0].shape[1:])
        return padded.index_copy_(0, places, grads[0]), None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for each layer, on one packed row [1, heads, tokens, size]."""
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    parts = [_flat(states, packing) for states in (query, key, value)]
    outputs, start = [], 0
    for bucket in packing.buckets:
        end = start + bucket.rows * bucket.length
        q, k, v = (_rows(part[start:end], bucket) for part in parts)
        mask = _mask(bucket, causal, sliding_window, q.device)
        attend = _plain_attention if _is_slow_when_fused(q, dropout) else _fused_attention
        output = attend(q, k, v, mask, causal and mask is None, dropout, scaling)
        outputs.append(output.transpose(1, 2).reshape(end - start, *output.shape[1::2]))
        start = end
    padded = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    flat: Tensor = padded
    if packing.places is not None:
        flat = _Repack.apply(padded, packing.places)  # type: ignore[no-untyped-call]
    return flat.unsqueeze(0), None


def _is_slow_when_fused(query: Tensor, dropout: float) -> bool:
    """torch's fused bf16 attention on a CPU: its backward took 3 to 8 times as long as plain products."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and dropout == 0


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float, scaling: float | None
) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=grouped
    )


def _plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float, scaling: float | None
) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = torch.matmul(q * (scaling or q.shape[-1] ** -0.5), k.transpose(-1, -2))
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill_(~mask, -math.inf)
    return torch.matmul(scores.softmax(dim=-1), v)


def _flat(states: Tensor, packing: Packing) -> Tensor:
    """[1, heads, tokens, size] to [slots, heads, size]."""
    tokens = states.squeeze(0).transpose(0, 1)
    if packing.slots is None:
        return tokens
    unpacked: Tensor = _Unpack.apply(tokens, packing.slots, packing.places)  # type: ignore[no-untyped-call]
    return unpacked


def _rows(slots: Tensor, bucket: Bucket) -> Tensor:
    return slots.view(bucket.rows, bucket.length, *slots.shape[1:]).transpose(1, 2)


def _mask(bucket: Bucket, causal: bool, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Who sees whom inside a bucket. Causal rows need no key mask: their padding comes last."""
    if sliding_window is None or bucket.length <= sliding_window:
        return None if causal else bucket.keys
    steps = torch.arange(bucket.length, device=device)
    distance = steps[:, None] - steps[None, :]
    near = distance.abs() < sliding_window
    if causal:
        return near & (distance >= 0)
    return near if bucket.keys is None else near & bucket.keys


def _no_mask(*_: Any, **__: Any) -> None:
    """The packing says all that a mask would."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
