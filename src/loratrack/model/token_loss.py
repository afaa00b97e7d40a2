"""The loss of tokens: cross-entropy through an output embedding, without ever holding all logits.

    states      [targets, hidden]        one line for each token that is to be predicted
                   |  a few lines at a time
                   v
    logits      [lines, vocabulary]      in fp32; softmax, loss, hit or miss, and the gradient at once
                   |
                   v
    gradient    [targets, hidden]        and of the output embedding, where it is trained

The logits of 8,192 tokens over a vocabulary of 150,000 take 4.9 GB, and their gradient as much again. Here
the gradient is computed in the forward pass, while a chunk of logits is there anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from loratrack.errors import UserError

CHUNK_NUMBERS = {"cpu": 2**22, "cuda": 2**26}
"""Logits in one chunk; a GPU would idle between small products."""


@dataclass(frozen=True)
class OutputEmbedding:
    """From a state to the logits of all tokens: a product, and what some architectures do after it."""

    weight: Tensor
    """[vocabulary, hidden]; of a base that is trained whole it is trained too."""
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    """No logit is larger: cap * tanh(logit / cap)."""
    dtype: torch.dtype = torch.float32
    """What the product is computed in; all after it is fp32."""

    def logits(self, states: Tensor) -> Tensor:
        """[lines, vocabulary] in fp32."""
        weight, bias = self.cast()
        return self.finished(F.linear(states.to(self.dtype), weight, bias).float())

    def cast(self) -> tuple[Tensor, Tensor | None]:
        return self.weight.to(self.dtype), None if self.bias is None else self.bias.to(self.dtype)

    def finished(self, products: Tensor) -> Tensor:
        """Scaled and capped."""
        logits = products if self.scale == 1 else products * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@dataclass(frozen=True)
class TokenLoss:
    """Of each target; detached but for `total`."""

    total: Tensor
    """The losses times their weights, summed: what is differentiated."""
    losses: Tensor
    """[targets] in fp32."""
    is_hit: Tensor
    """[targets] whether no other token was more probable."""


def output_embedding(network: PreTrainedModel, dtype: torch.dtype) -> OutputEmbedding:
    """The one of a causal LM, with what its config says of logits."""
    head = network.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise UserError(
            f"model.arch: {network.config.model_type!r} has no output embedding that gives logits by one"
            " product; name a causal LM such as Llama, Qwen or GPT-2"
        )
    config = network.config.get_text_config()
    return OutputEmbedding(
        head.weight, head.bias, _scale(config), _number(config, "final_logit_softcapping"), dtype
    )


def _scale(config: PretrainedConfig) -> float:
    """Cohere and Falcon-H1 multiply their logits, Granite divides them."""
    times = (_number(config, "logit_scale") or 1.0) * (_number(config, "lm_head_multiplier") or 1.0)
    return times / (_number(config, "logits_scaling") or 1.0)


def _number(config: PretrainedConfig, name: str) -> float | None:
    value = getattr(config, name, None)
    return None if value is None else float(value)


def token_loss(states: Tensor, targets: Tensor, weights: Tensor, output: OutputEmbedding) -> TokenLoss:
    """The losses of `targets` [targets] after `states` [targets, hidden]; `weights` [targets] in fp32."""
    trains = torch.is_grad_enabled()
    total, losses, is_hit = _Chunked.apply(  # type: ignore[no-untyped-call]
        states, output.weight, output.bias, targets, weights, output, trains
    )
    return TokenLoss(total, losses, is_hit)


class _Chunked(torch.autograd.Function):
    """`states`, `weight` and `bias` are differentiated; what is saved for it are their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        output: OutputEmbedding,
        trains: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_states, of_weight, of_bias = (trains and needed for needed in ctx.needs_input_grad[:3])
        state_grad = torch.empty_like(states) if of_states else None
        weight_grad = torch.zeros_like(weight) if of_weight else None
        bias_grad = torch.zeros_like(bias) if of_bias and bias is not None else None
        differentiates = state_grad is not None or weight_grad is not None
        losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
        is_hit = torch.empty(len(states), dtype=torch.bool, device=states.device)
        cast_weight, cast_bias = output.cast()
        for lines in _chunks(len(states), len(weight), states.device):
            chunk, wanted = states[lines].to(output.dtype), targets[lines, None]
            logits = output.finished(F.linear(chunk, cast_weight, cast_bias).float())
            slope = None if output.cap is None or not differentiates else 1 - (logits / output.cap).square()
            highest, guessed = logits.max(dim=-1, keepdim=True)
            is_hit[lines] = (guessed == wanted).squeeze(1)
            of_wanted = logits.sub_(highest).gather(1, wanted)
            sums = logits.exp_().sum(dim=-1, keepdim=True)
            losses[lines] = (sums.log() - of_wanted).squeeze(1)
            if differentiates:
                # (softmax - one at the target) * weight, in the place of the logits
                factors = weights[lines, None] * output.scale
                logits.mul_(factors / sums).scatter_add_(1, wanted, -factors)
                grad = logits if slope is None else logits.mul_(slope)
                cast_grad = grad.to(output.dtype)
                if state_grad is not None:
                    state_grad[lines] = cast_grad @ cast_weight
                if weight_grad is not None:
                    weight_grad.add_(cast_grad.T @ chunk)
                if bias_grad is not None:
                    bias_grad.add_(grad.sum(dim=0))
                del grad, cast_grad
            del logits, slope  # or there would be two chunks at once
        ctx.save_for_backward(state_grad, weight_grad, bias_grad)
        ctx.mark_non_differentiable(losses, is_hit)
        return (losses * weights).sum(), losses, is_hit

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # In place: the output embedding's is as large as the embedding. A second backward pass would raise.
        scaled = [None if saved is None else saved.mul_(grads[0]) for saved in ctx.saved_tensors]
        return (*scaled, None, None, None, None)


def _chunks(lines: int, vocabulary: int, device: torch.device) -> list[slice]:
    """Of equal size but for the last, so that no product is much smaller than the others."""
    most = max(1, CHUNK_NUMBERS.get(device.type, CHUNK_NUMBERS["cpu"]) // vocabulary)
    count = -(-lines // most)
    size = -(-lines // max(1, count))
    return [slice(start, start + size) for start in range(0, lines, max(1, size))]
