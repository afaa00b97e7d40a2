"""What a member trains: its matrices and its heads, side by side in one row of numbers.

PEFT's parameters stay PEFT's; they become views of the row. One operation then serves all of them: one norm
of the gradient, one step of the optimizer, one conversion to the number format that the base multiplies in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Each parameter begins at a multiple of this many numbers."""


class FlatParameters:
    """Parameters as views of one row, and their gradients as views of another."""

    def __init__(self, parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
        """`dtype` is what the base multiplies in; what is trained stays in fp32."""
        ordered = [*(p for p in parameters if p.ndim > 1), *(p for p in parameters if p.ndim <= 1)]
        sizes = [-(-parameter.numel() // ALIGNMENT) * ALIGNMENT for parameter in ordered]
        matrices = sum(size for size, parameter in zip(sizes, ordered, strict=True) if parameter.ndim > 1)
        self.values = torch.zeros(sum(sizes), device=ordered[0].device)
        self.gradients = torch.zeros_like(self.values)
        self._cast = self.values if dtype == torch.float32 else torch.zeros_like(self.values, dtype=dtype)
        self._casts: dict[int, Tensor] = {}
        start = 0
        for parameter, size in zip(ordered, sizes, strict=True):
            place, shape = slice(start, start + parameter.numel()), parameter.shape
            self.values[place] = parameter.detach().flatten()
            parameter.data = self.values[place].view(shape)
            parameter.grad = self.gradients[place].view(shape)
            self._casts[id(parameter)] = self._cast[place].view(shape)
            start += size
        self.matrices = self._part(slice(0, matrices))
        """What an optimizer is given; weight decay is for these alone."""
        self.vectors = self._part(slice(matrices, start))

    def cast(self, parameter: nn.Parameter) -> Tensor:
        """The parameter in the base's number format, as of the last `refresh`."""
        return self._casts[id(parameter)]

    def refresh(self) -> None:
        """Before a pass through the network: what the optimizer or a file has changed is cast anew."""
        if self._cast is not self.values:
            self._cast.copy_(self.values)

    def clip(self, norm: float) -> None:
        """Gradients no longer than `norm` together; nobody waits for how long they were."""
        length = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((norm / (length + 1e-6)).clamp(max=1))

    def zero_grad(self) -> None:
        """No gradient is left. The views stay, so a parameter's `grad` must never be taken away."""
        self.gradients.zero_()

    def _part(self, place: slice) -> nn.Parameter:
        part = nn.Parameter(self.values[place])
        part.grad = self.gradients[place]
        return part
