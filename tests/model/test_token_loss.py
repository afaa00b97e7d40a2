"""The chunked loss against whole logits: the same numbers, without the memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from loratrack.model import token_loss as module
from loratrack.model.token_loss import OutputEmbedding, token_loss

LINES, HIDDEN, VOCABULARY = 37, 16, 90
KINDS = [
    {},
    {"bias": True},
    {"scale": 0.25},
    {"cap": 3.0},
    {"bias": True, "scale": 4.0, "cap": 5.0},
]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole_losses(states: Tensor, targets: Tensor, output: OutputEmbedding) -> tuple[Tensor, Tensor]:
    logits = F.linear(states, output.weight, output.bias) * output.scale
    if output.cap is not None:
        logits = output.cap * torch.tanh(logits / output.cap)
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1)


@pytest.mark.parametrize("lines_in_a_chunk", [1, 5, 1000])
@pytest.mark.parametrize("trains_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_whole_logits(
    kind: dict[str, float], trains_output: bool, lines_in_a_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.CHUNK_NUMBERS, "cpu", lines_in_a_chunk * VOCABULARY)
    weight = drawn(VOCABULARY, HIDDEN, seed=0).requires_grad_(trains_output)
    bias = drawn(VOCABULARY, seed=1).requires_grad_(trains_output) if "bias" in kind else None
    output = OutputEmbedding(weight, bias, kind.get("scale", 1.0), kind.get("cap"))
    states = drawn(LINES, HIDDEN, seed=2).requires_grad_()
    targets = torch.randint(VOCABULARY, (LINES,), generator=torch.Generator().manual_seed(3))
    weights = drawn(LINES, seed=4).abs() / LINES
    trained = [value for value in (states, weight, bias) if value is not None and value.requires_grad]

    right, guesses = whole_losses(states, targets, output)
    expected = torch.autograd.grad(2 * (right * weights).sum(), trained)
    result = token_loss(states, targets, weights, output)
    got = torch.autograd.grad(2 * result.total, trained)

    torch.testing.assert_close(result.losses, right.detach(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(result.total, (right * weights).sum(), atol=1e-6, rtol=1e-6)
    assert torch.equal(result.is_hit, guesses == targets)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


def test_a_loss_without_gradients_is_the_same() -> None:
    output = OutputEmbedding(drawn(VOCABULARY, HIDDEN, seed=0))
    states, targets = drawn(LINES, HIDDEN, seed=2).requires_grad_(), torch.arange(LINES)
    with torch.no_grad():
        plain = token_loss(states, targets, torch.ones(LINES), output)
    trained = token_loss(states, targets, torch.ones(LINES), output)
    assert torch.equal(plain.losses, trained.losses)
    assert not plain.total.requires_grad
    assert trained.total.requires_grad


def test_products_of_bf16_have_a_softmax_of_fp32() -> None:
    weight, states = drawn(VOCABULARY, HIDDEN, seed=0).bfloat16(), drawn(LINES, HIDDEN, seed=2).bfloat16()
    output, targets = OutputEmbedding(weight, dtype=torch.bfloat16), torch.arange(LINES)
    states.requires_grad_()
    result = token_loss(states, targets, torch.full((LINES,), 1 / LINES), output)
    right = F.cross_entropy((states @ weight.T).float(), targets, reduction="none")
    torch.testing.assert_close(result.losses, right.detach(), atol=1e-6, rtol=1e-6)
    (expected,) = torch.autograd.grad(right.mean(), states)
    (got,) = torch.autograd.grad(result.total, states)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0.02)


def test_a_target_that_is_nan_changes_no_other() -> None:
    output = OutputEmbedding(drawn(VOCABULARY, HIDDEN, seed=0))
    states, targets = drawn(LINES, HIDDEN, seed=2), torch.arange(LINES)
    states[3] = torch.nan
    states.requires_grad_()
    result = token_loss(states, targets, torch.ones(LINES), output)
    (grad,) = torch.autograd.grad(result.total, states)
    assert result.losses.isnan().nonzero().flatten().tolist() == [3]
    assert grad.isnan().any(dim=1).nonzero().flatten().tolist() == [3]


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch had allocated for it at one time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = work()
    assert kept is not None
    results = profiled.profiler.kineto_results
    assert results is not None
    allocated = peak = 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


@pytest.mark.parametrize("trains", [True, False])
def test_the_peak_of_memory_does_not_grow_with_vocabulary_times_length(trains: bool) -> None:
    def peak(lines: int, vocabulary: int, loss: Callable[[Tensor, Tensor, OutputEmbedding], Tensor]) -> int:
        output = OutputEmbedding(drawn(vocabulary, 8, seed=0))
        states, targets = drawn(lines, 8, seed=1).requires_grad_(trains), torch.arange(lines) % vocabulary

        def work() -> Tensor:
            with torch.set_grad_enabled(trains):
                total = loss(states, targets, output)
                return torch.autograd.grad(total, states)[0] if trains else total

        return peak_bytes(work)

    def chunked(states: Tensor, targets: Tensor, output: OutputEmbedding) -> Tensor:
        return token_loss(states, targets, torch.ones(len(targets)), output).total

    def whole(states: Tensor, targets: Tensor, output: OutputEmbedding) -> Tensor:
        return whole_losses(states, targets, output)[0].sum()

    chunk = 4 * module.CHUNK_NUMBERS["cpu"]
    small, large = peak(1024, 8192, chunked), peak(4096, 16384, chunked)
    assert small < large < 1.2 * chunk
    assert peak(1024, 8192, whole) > 2 * 4 * 1024 * 8192 * (0.9 if trains else 0.5)  # the measure can see
