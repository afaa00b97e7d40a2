"""CUDA graphs: the pass of each batch shape is captured once and replayed with one call.

A small base on a fast GPU waits for the thousand kernel launches of each pass, however many rows are in it.
Batches of one shape run the same kernels, so the third time that a shape is met its pass is captured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from loratrack.model.batch import BatchLayout, send_together, sent_bytes
from loratrack.model.out_of_memory import is_out_of_memory

Pass = Callable[[Mapping[str, Tensor]], Tensor]

EAGER_RUNS = 2
"""Of each shape, before it is captured: what is built once, such as cached tensors, must not be captured."""
MAX_GRAPHS = 32
"""Graphs in the cache; the least recently used one makes room."""


class Graph(Protocol):
    """A captured CUDA graph; a test on a CPU has a stand-in."""

    def replay(self) -> None: ...


@dataclass(frozen=True)
class CapturedPass:
    graph: Graph
    inputs: Tensor
    """The memory that the pass reads its batch from."""
    result: Tensor
    targets: tuple[object, ...]
    """What the pass writes to; it must not be freed before the graph."""


class GraphCache:
    """Runs passes eagerly, or replays their graphs."""

    def __init__(self, device: torch.device, notice: Callable[[str], None]) -> None:
        self.device, self.notice = device, notice
        self.is_enabled = True
        self._graphs_by_shape: OrderedDict[Hashable, CapturedPass] = OrderedDict()
        self._eager_runs: dict[Hashable, int] = {}
        self._pool: object = None
        """The memory that all graphs work in, one after the other."""

    def run(self, batch_layout: BatchLayout, targets: tuple[object, ...], work: Pass) -> Tensor:
        """`work` on the batch. It may depend on the batch and on `targets` alone, and write to `targets`."""
        key = (*map(id, targets), batch_layout.shape)
        if key not in self._graphs_by_shape and self.is_enabled:
            self._eager_runs[key] = self._eager_runs.get(key, 0) + 1
            if self._eager_runs[key] > EAGER_RUNS:
                del self._eager_runs[key]
                try:
                    self._graphs_by_shape[key] = self._capture(batch_layout, targets, work)
                except RuntimeError as error:
                    # Capturing hides the first error behind one of its own.
                    cause = error.__context__ or error
                    if is_out_of_memory(error) or is_out_of_memory(cause):
                        raise torch.OutOfMemoryError(str(cause)) from error
                    # A base that synchronises in its forward (`.item()`) cannot be captured.
                    self.disable()
                    first_line = str(cause).splitlines()[0]
                    self.notice(
                        f"this base does not run as a CUDA graph, so its steps are slower: {first_line}"
                    )
                if len(self._graphs_by_shape) > MAX_GRAPHS:
                    self._graphs_by_shape.popitem(last=False)
        if key not in self._graphs_by_shape:
            return work(send_together(batch_layout.arrays, self.device))
        self._graphs_by_shape.move_to_end(key)
        captured = self._graphs_by_shape[key]
        send_together(batch_layout.arrays, self.device, captured.inputs)
        captured.graph.replay()
        return captured.result.clone()  # the next replay writes to the same memory

    def clear(self) -> None:
        """Drop all graphs: parameters have moved to other addresses."""
        self._graphs_by_shape.clear()
        self._eager_runs.clear()
        self._pool = None

    def disable(self) -> bool:
        """Capture nothing from now on, and free the graphs' memory; True if there was any."""
        had_memory, self.is_enabled = self._pool is not None, False
        self.clear()
        if had_memory:
            torch.cuda.empty_cache()
        return had_memory

    def _capture(self, batch_layout: BatchLayout, targets: tuple[object, ...], work: Pass) -> CapturedPass:
        graph = torch.cuda.CUDAGraph()
        inputs = torch.empty(sent_bytes(batch_layout.arrays), dtype=torch.uint8, device=self.device)
        sent = send_together(batch_layout.arrays, self.device, inputs)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):  # type: ignore[arg-type]
                result = work(sent)
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own stream in place
        return CapturedPass(graph, inputs, result, targets)
