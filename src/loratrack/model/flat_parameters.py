"""What a member trains: its matrices and its heads, side by side in one flat tensor.

    values     | lora_A | lora_B | lora_A | lora_B | … | heads.weight || heads.bias |     fp32
    gradients  | .grad  | .grad  | .grad  | .grad  | … | .grad        || .grad      |     fp32
    cast       | bf16 copy of values, where the base multiplies in bf16             |
               |<------------------ matrices (weight decay) ---------->||<-vectors->|

PEFT's parameters stay PEFT's; each becomes a view of `values`, and its `.grad` a view of `gradients`. One
operation then serves all of them: one gradient norm, one optimizer step, one cast. A step of a small base
would otherwise spend most of its time calling torch a hundred times for tiny tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGNED_NUMBERS = 16
"""Each parameter begins at a multiple of this many numbers: 64 bytes in fp32, one cache line."""


class FlatParameters:
    """Parameters as views of one tensor, and their gradients as views of another."""

    def __init__(self, parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
        """`dtype` is what the base multiplies in; what is trained stays in fp32."""
        ordered = [*(p for p in parameters if p.ndim > 1), *(p for p in parameters if p.ndim <= 1)]
        sizes = [-(-parameter.numel() // ALIGNED_NUMBERS) * ALIGNED_NUMBERS for parameter in ordered]
        matrices = sum(size for size, parameter in zip(sizes, ordered, strict=True) if parameter.ndim > 1)
        self.values = torch.zeros(sum(sizes), device=ordered[0].device)
        self.gradients = torch.zeros_like(self.values)
        self._cast = self.values if dtype == torch.float32 else torch.zeros_like(self.values, dtype=dtype)
        self._casts: dict[int, Tensor] = {}
        start = 0
        for parameter, size in zip(ordered, sizes, strict=True):
            part, shape = slice(start, start + parameter.numel()), parameter.shape
            self.values[part] = parameter.detach().flatten()
            parameter.data = self.values[part].view(shape)
            parameter.grad = self.gradients[part].view(shape)
            self._casts[id(parameter)] = self._cast[part].view(shape)
            start += size
        self.matrices = self._part(slice(0, matrices))
        """What an optimizer is given; weight decay is for these alone."""
        self.vectors = self._part(slice(matrices, start))

    def cast(self, parameter: nn.Parameter) -> Tensor:
        """The parameter in the base's number format, as of the last `refresh`."""
        return self._casts[id(parameter)]

    def refresh(self) -> None:
        """Cast again before a pass: the optimizer or a file has changed the values."""
        if self._cast is not self.values:
            self._cast.copy_(self.values)

    def clip(self, norm: float) -> None:
        """Clip the total gradient norm to `norm` without a device synchronisation."""
        length = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((norm / (length + 1e-6)).clamp(max=1))

    def zero_grad(self) -> None:
        """Zero in place. `.grad` is a view of this tensor: never set it to None."""
        self.gradients.zero_()

    def _part(self, numbers: slice) -> nn.Parameter:
        part = nn.Parameter(self.values[numbers])
        part.grad = self.gradients[numbers]
        return part
