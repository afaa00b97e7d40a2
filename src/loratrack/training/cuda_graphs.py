"""Recorded passes: what a GPU is asked to do in a pass is recorded once, then replayed at one word.

A small base on a fast GPU waits for the thousand launches of each pass, however many rows are in it.
Batches of one shape take the same way, so the third time that a shape is met its pass is recorded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loratrack.model.batch import BatchLayout, send_together, sent_bytes

Pass = Callable[[Mapping[str, Tensor]], Tensor]

EAGER_RUNS = 2
"""Of each shape, before it is recorded: what is built once must not be part of the recording."""
MAX_GRAPHS = 32
"""Recordings that are kept; the one unused for longest makes room."""


@dataclass(frozen=True)
class CapturedPass:
    graph: torch.cuda.CUDAGraph
    place: Tensor
    """Where the pass reads its batch from."""
    result: Tensor
    kept: object
    """What the pass writes to; it must not be freed before the recording."""


class GraphCache:
    """Runs passes plainly, or replays them."""

    def __init__(self, device: torch.device, notice: Callable[[str], None]) -> None:
        self.device, self.notice = device, notice
        self.is_enabled = True
        self._graphs_by_shape: OrderedDict[Hashable, CapturedPass] = OrderedDict()
        self._runs: dict[Hashable, int] = {}
        self._pool: Any = None
        """The memory that all recordings work in, one after the other."""

    def run(self, batch_layout: BatchLayout, kept: tuple[object, ...], work: Pass) -> Tensor:
        """`work` on the batch. It depends on the batch and on `kept` alone."""
        key = (*map(id, kept), batch_layout.shape)
        if key not in self._graphs_by_shape and self.is_enabled:
            self._runs[key] = self._runs.get(key, 0) + 1
            if self._runs[key] > EAGER_RUNS:
                self._try_to_capture(key, batch_layout, kept, work)
        if key not in self._graphs_by_shape:
            return work(send_together(batch_layout.arrays, self.device))
        self._graphs_by_shape.move_to_end(key)
        recording = self._graphs_by_shape[key]
        send_together(batch_layout.arrays, self.device, recording.place)
        recording.graph.replay()
        return recording.result.clone()

    def clear(self) -> None:
        """For members whose numbers lie elsewhere."""
        self._graphs_by_shape.clear()
        self._runs.clear()
        self._pool = None

    def disable(self) -> bool:
        """No more recordings, and their memory back, which nothing else can use; whether there was any."""
        held, self.is_enabled = self._pool is not None, False
        self.clear()
        if held:
            torch.cuda.empty_cache()
        return held

    def _try_to_capture(
        self, key: Hashable, batch_layout: BatchLayout, kept: tuple[object, ...], work: Pass
    ) -> None:
        """A base that looks at its own numbers in a pass cannot be recorded: it is run plainly."""
        del self._runs[key]
        try:
            self._graphs_by_shape[key] = self._capture(batch_layout, kept, work)
        except RuntimeError as error:
            cause = error.__context__ or error
            if is_out_of_memory(error) or is_out_of_memory(cause):
                raise torch.OutOfMemoryError(str(cause)) from error
            self.disable()
            said = str(cause).splitlines()[0]
            self.notice(f"passes of this base cannot be recorded, and are slower for it: {said}")
        if len(self._graphs_by_shape) > MAX_GRAPHS:
            self._graphs_by_shape.popitem(last=False)

    def _capture(self, batch_layout: BatchLayout, kept: tuple[object, ...], work: Pass) -> CapturedPass:
        graph = torch.cuda.CUDAGraph()
        place = torch.empty(sent_bytes(batch_layout.arrays), dtype=torch.uint8, device=self.device)
        sent = send_together(batch_layout.arrays, self.device, place)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = work(sent)
        finally:
            torch.cuda.set_stream(stream)  # a recording that breaks off leaves its own stream in place
        return CapturedPass(graph, place, result, kept)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
