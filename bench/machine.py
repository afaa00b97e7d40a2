"""The machine: how fast it multiplies matrices, what a process holds, how many weights a base has."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

SHAPES = ((2048, 2048, 2048), (4096, 384, 1536), (4096, 1536, 384))
"""Rows, inputs, outputs: a large square, and the built-in base's two largest products on 4,096 tokens."""
SHAPE_SECONDS = 0.25
BUSY = 0.5
"""A machine with a higher load than this at the start gives figures that are not to be trusted."""


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOP/s of matrix products: each shape's median, and of these the highest."""
    return max(_rate(shape, dtype) for shape in SHAPES)


def _rate(shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    rows, inputs, outputs = shape
    x = torch.randn(rows, inputs, device=device()).to(dtype)
    weight = torch.randn(outputs, inputs, device=device()).to(dtype)
    _timed(x, weight)
    times = [_timed(x, weight)]
    while sum(times) < SHAPE_SECONDS:
        times.append(_timed(x, weight))
    return 2 * rows * inputs * outputs / statistics.median(times)


def _timed(x: torch.Tensor, weight: torch.Tensor) -> float:
    settle()
    started = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    settle()
    return time.perf_counter() - started


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settle() -> None:
    """Wait for the device; the CPU has always finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def on_a_share_of_the_cores(parties: int) -> dict[str, str]:
    """Environment for processes at the same time; without it each would take all cores."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // parties))}


def peak_memory_bytes() -> int:
    """The GPU's memory where there is one, else the process's own high-water mark of resident memory.

    `ru_maxrss` comes last: on Linux a process inherits its parent's.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def linear_weights(encoder: nn.Module) -> int:
    """Weights of the base's linear layers; no LoRA matrix, no embedding, no unused pooler."""
    return sum(
        module.weight.numel()
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name and "pooler" not in name
    )
