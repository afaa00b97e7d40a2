"""Attention over packed rows: no token sees another sequence, and hardly any padding is computed.

The base is given one long row. Around the attention product alone, the tokens are moved into bins, and
back; every other product of the network works on real tokens only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface

from loratrack.errors import UserError
from loratrack.model.packing import Packing, Ragged

PACKED = "loratrack_packed"
"""The name under which transformers finds this attention."""
WITHOUT_EFFECT = {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"}
WITHOUT_EFFECT |= {"return_dict", "deterministic"}
"""Arguments that some bases hand on to their attention, and that change nothing in it."""


class UnpackableError(UserError):
    """The base's attention is another than packed rows are given; the message says why, as `since …`."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | Ragged | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for each layer, on one packed row [1, heads, tokens, size].

    UnpackableError where the base asks for more than this does: to leave out a cap or a bias would be wrong.
    """
    unknown = sorted(name for name in more.keys() - WITHOUT_EFFECT if more[name] is not None)
    if unknown:
        raise UnpackableError(f"its attention takes {', '.join(unknown)}, which packed rows do not have")
    if packing is None:
        raise UnpackableError("its layers do not tell their attention how rows are packed")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    if isinstance(packing, Ragged):
        assert dropout == 0, "a base that drops is not run ragged"
        return _ragged_attention(query, key, value, packing, causal, sliding_window, scaling), None
    tokens = query.shape[2]
    parts = [packing.spread(states.squeeze(0).transpose(0, 1)) for states in (query, key, value)]
    outputs = []
    for group, (q, k, v) in enumerate(zip(*parts, strict=True)):
        if _is_slow_when_fused(q, dropout):
            bias = packing.bias(group, causal, sliding_window, q.dtype)
            outputs.append(_plain_attention(q, k, v, bias, scaling))
        else:
            mask = packing.visible(group, causal, sliding_window)
            outputs.append(_fused_attention(q, k, v, mask, causal and mask is None, dropout, scaling))
    return packing.collect(outputs, tokens).unsqueeze(0), None


def _ragged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ragged: Ragged,
    causal: bool,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    """torch's flash attention for sequences of any length; [1, tokens, heads, size]."""
    q, k, v = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    sight: dict[str, Any] = {}
    if causal or window is not None:
        behind = -1 if window is None else window - 1
        sight["window_size"] = (behind, 0 if causal else behind)
    if k.shape[1] != q.shape[1]:
        sight["enable_gqa"] = True
    bounds, longest = ragged.bounds, ragged.longest
    result = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, **sight)
    assert isinstance(result, Tensor), "nothing but the result was asked for"
    return result.unsqueeze(0)


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


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float | None) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = torch.matmul(q * (scaling or q.shape[-1] ** -0.5), k.transpose(-1, -2))
    if bias is not None:
        scores = scores.add_(bias)
    return torch.matmul(scores.softmax(dim=-1), v)


def _no_mask(*_: Any, **__: Any) -> None:
    """The packing says all that a mask would."""


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _no_mask)
