"""Members' products side by side, alike in both ways of doing them."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loratrack.model.dropout import Dropout
from loratrack.model.flat_parameters import FlatParameters
from loratrack.model.routing import Adapter, Router, _Grouped, _OneByOne

SLOTS = (9, 17, 4, 10)
IN, OUT = 24, 16


def adapter(rank: int, seed: int) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, IN, generator=draw).to(torch.bfloat16)
    up = torch.randn(OUT, rank, generator=draw).to(torch.bfloat16)
    return Adapter(down, up, torch.zeros(rank, IN), torch.zeros(OUT, rank), scaling=0.5 + seed)


def learned(products: _OneByOne | _Grouped, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What was added, the gradient of `x`, and those of the matrices."""
    out, back = torch.zeros(len(x), OUT, dtype=x.dtype), torch.empty_like(x)
    products.backward(grad, x, products.add(out, x), back)
    adapters = [part[0] for part in products.parts] if isinstance(products, _OneByOne) else products.adapters
    grads = [g for a in adapters if a is not None for g in (a.lora_A_grad, a.lora_B_grad)]
    return out, back, grads


def test_one_product_for_all_members_gives_what_each_gives_by_itself() -> None:
    draw = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(sum(SLOTS), width, generator=draw).to(torch.bfloat16) for width in (IN, OUT))
    scales = [2.0, 0.5, 0.0, 1.5]

    def adapters() -> list[Adapter | None]:
        return [adapter(4, 0), adapter(8, 1), None, adapter(11, 2)]

    ends = torch.tensor(np.cumsum(SLOTS), dtype=torch.int32)
    single = learned(_OneByOne(adapters(), scales, SLOTS), x, grad)
    grouped = learned(_Grouped(adapters(), scales, ends, x, OUT), x, grad)
    pairs = [*zip(single[:2], grouped[:2], strict=True), *zip(single[2], grouped[2], strict=True)]
    assert len(pairs) == 2 + 6
    for mine, other in pairs:
        assert mine.any()
        assert (mine - other).float().norm() < 0.01 * mine.float().norm()


def test_a_member_that_does_not_train_a_layer_changes_nothing_there() -> None:
    draw = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(sum(SLOTS), width, generator=draw) for width in (IN, OUT))
    one = adapter(4, 0)
    fp32 = Adapter(one.lora_A.float(), one.lora_B.float(), one.lora_A_grad, one.lora_B_grad, 1.0)
    out, back, _ = learned(_OneByOne([None, fp32, None, None], [0, 1.0, 0, 0], SLOTS), x, grad)
    assert out[:9].abs().max() == out[26:].abs().max() == 0
    assert back[:9].abs().max() == back[26:].abs().max() == 0
    assert torch.allclose(out[9:26], x[9:26] @ fp32.lora_A.T @ fp32.lora_B.T, atol=1e-3)
    assert torch.allclose(back[9:26], grad[9:26] @ fp32.lora_B @ fp32.lora_A, atol=1e-3)


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapted_layer_is_what_autograd_makes_of_its_formula(
    kind: type[nn.Module], share: float, dora: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(Conv1D(OUT, IN) if kind is Conv1D else nn.Linear(IN, OUT)).requires_grad_(False)
    settings = LoraConfig(
        r=4,
        lora_alpha=6,
        lora_dropout=share,
        target_modules=["0"],
        fan_in_fan_out=kind is Conv1D,
        use_dora=dora,
    )
    PeftModel(layer, settings, adapter_name="ann")
    lora: Any = layer[0]  # PEFT's own layer, which has no types
    down, up = lora.lora_A["ann"].weight, lora.lora_B["ann"].weight
    magnitudes = [lora.lora_magnitude_vector["ann"].weight] if dora else []
    nn.init.normal_(up)
    trained, router = FlatParameters([down, up, *magnitudes], torch.float32), Router()
    router.attach(layer, "ann", trained, share)
    for magnitude in magnitudes:
        nn.init.uniform_(magnitude, 0.5, 2)
    x, weights = torch.randn(1, 9, IN, requires_grad=True), torch.randn(1, 9, OUT)
    dropout = Dropout(seed=7, step=1, micro_batch=0)
    lengths = torch.tensor([9])
    batch = SimpleNamespace(slots_each=(9,), tokens=(9,), real_tokens=None, lengths=lengths, more={})
    with router.on(batch, ["ann"], [dropout]):  # type: ignore[arg-type]
        result = layer(x)
        (result * weights).sum().backward()
    found = [x.grad, *(value.grad.clone() for value in (down, up, *magnitudes))]
    copies = [value.detach().clone().requires_grad_() for value in (x, down, up)]
    kept = torch.ones(9 * IN)
    if share:
        kept[torch.from_numpy(dropout.indices(zlib.crc32(b"0"), 9 * IN, share))] = 0
        assert 0 < (kept == 0).sum() < 9 * IN
    seen = copies[0] * kept.view(1, 9, IN) / (1 - share)
    expected = lora.base_layer(copies[0])
    if dora:  # PEFT's own forward
        lora.zero_grad(set_to_none=True)
        copies[1:] = [down.requires_grad_(), up.requires_grad_(), magnitudes[0].requires_grad_()]
        base_result = None if share else expected
        expected = expected + lora.lora_magnitude_vector["ann"](
            seen,
            lora_A=lora.lora_A["ann"],
            lora_B=lora.lora_B["ann"],
            scaling=6 / 4,
            base_layer=lora.base_layer,
            base_result=base_result,
        )
    else:
        expected = expected + 6 / 4 * (seen @ copies[1].T @ copies[2].T)
    assert torch.allclose(result, expected, atol=1e-4)
    (expected * weights).sum().backward()
    for mine, other in zip(found, copies, strict=True):
        assert mine is not None
        assert other.grad is not None
        assert other.grad.norm() > 1
        assert torch.allclose(mine, other.grad, atol=1e-4)
