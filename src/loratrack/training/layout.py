"""Packed or padded: measured once on the device at the start, on batches of the data in hand."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratrack.data import Tokens
from loratrack.errors import UserError
from loratrack.model.attention import UnpackableError
from loratrack.model.batch import Layout
from loratrack.model.network import Network

ROUNDS = 3
MAX_SHARE_OF_TIME = 0.9
"""Of packing's time: padding must take less to be chosen. On a busy machine small differences are noise."""
MAX_DIFFERENCE_OF_EQUAL_PASSES = 1e-3
"""Of a logit, relative to the largest: a GPU adds in any order, dropout changes whole percents."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15}
"""Largest difference of a logit between the two layouts, relative to the largest logit."""


def fault_of_packing(network: Network, split: Tokens, member: str, batch_size: int) -> str | None:
    """Why this base cannot be run packed, as `since …`; None where it gives the logits of padded rows."""
    rows = np.random.default_rng(0).choice(len(split), min(batch_size, len(split)), replace=False)
    try:
        difference = _difference(network, split, member, rows)
    except UnpackableError as error:
        return str(error)
    if difference <= TOLERANCE[network.dtype]:
        return None
    return f"this architecture does not give the same result on packed rows ({difference:.0%} off)"


def choose_layout(
    network: Network, split: Tokens, member: str, batch_size: int, notice: Callable[[str], None]
) -> Layout:
    """The layout with the faster training step, of those that the network has."""
    if len(network.layouts) == 1:
        return network.layouts[0]
    rng = np.random.default_rng(0)
    size = min(batch_size, len(split))
    batches = [rng.choice(len(split), size, replace=False) for _ in range(ROUNDS)]
    if network.takes_ragged:  # its passes can be recorded, and are then several times as fast as padded ones
        notice("layout: packed, with attention for sequences of any length")
        return "packed"
    seconds: dict[Layout, list[float]] = {"packed": [], "padded": []}
    for rows in [batches[0], *batches]:
        for layout in network.layouts:
            seconds[layout].append(step_seconds(network, split, member, layout, rows))
    fastest = {layout: min(times[1:]) for layout, times in seconds.items()}
    best: Layout = "padded" if fastest["padded"] < MAX_SHARE_OF_TIME * fastest["packed"] else "packed"
    told = ", ".join(f"{layout} {1000 * value:.0f} ms" for layout, value in fastest.items())
    notice(f"layout: {best} (a step of {size} examples: {told})")
    return best


def check_that_nothing_drops(network: Network, split: Tokens, member: str) -> None:
    """UserError where two equal training passes differ: members would then depend on their neighbours."""
    rows = np.arange(1)
    with torch.no_grad():
        first, second = (
            _logits(network, split, member, network.layout, rows, training=True) for _ in range(2)
        )
    difference = _relative_difference(first, second)
    if difference > MAX_DIFFERENCE_OF_EQUAL_PASSES:
        raise UserError(
            f"model.arch: {network.config.model_type!r} draws random numbers of its own in each pass (two"
            f" equal passes differ by {difference:.0%}), so nothing that is trained on it could be repeated;"
            " take another base"
        )


def step_seconds(
    network: Network, split: Tokens, member: str, layout: Layout, rows: NDArray[np.int64]
) -> float:
    """Forward and backward of one batch; no gradient is left."""
    started = time.perf_counter()
    try:
        logits = _logits(network, split, member, layout, rows, training=True)
        logits.sum().backward()  # type: ignore[no-untyped-call]
        _wait(network.device)
    finally:
        network.flat_parameters(member).zero_grad()
    return time.perf_counter() - started


@torch.inference_mode()
def _difference(network: Network, split: Tokens, member: str, rows: NDArray[np.int64]) -> float:
    packed, padded = (
        _logits(network, split, member, layout, rows, training=False) for layout in ("packed", "padded")
    )
    return _relative_difference(packed, padded)


def _relative_difference(logits: Tensor, right: Tensor) -> float:
    return float((logits - right).abs().max() / right.abs().max().clamp(min=1e-6))


def _logits(
    network: Network,
    split: Tokens,
    member: str,
    layout: Layout,
    rows: NDArray[np.int64],
    *,
    training: bool,
) -> Tensor:
    network.train() if training else network.eval()
    network.layout = layout
    batch = network.arrange(split, [rows], [member]).on(network.device)
    with network.routed(batch, [member]):
        return network.logits(batch, [member])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
