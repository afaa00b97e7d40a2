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

from loratrack.model.batch import Laid, send_together, sent_bytes

Pass = Callable[[Mapping[str, Tensor]], Tensor]

PLAIN_RUNS = 2
"""Of each shape, before it is recorded: what is built once must not be part of the recording."""
MOST = 32
"""Recordings that are kept; the one unused for longest makes room."""


@dataclass(frozen=True)
class Recording:
    graph: torch.cuda.CUDAGraph
    place: Tensor
    """Where the pass reads its batch from."""
    result: Tensor
    kept: object
    """What the pass writes to; it must not be freed before the recording."""


class Recorder:
    """Runs passes plainly, or replays them."""

    def __init__(self, device: torch.device, notice: Callable[[str], None]) -> None:
        self.device, self.notice = device, notice
        self.can_record = True
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._runs: dict[Hashable, int] = {}
        self._pool: Any = None
        """The memory that all recordings work in, one after the other."""

    def run(self, laid: Laid, kept: tuple[object, ...], work: Pass) -> Tensor:
        """`work` on the batch. It depends on the batch and on `kept` alone."""
        key = (*map(id, kept), laid.shape)
        if key not in self._recordings and self.can_record:
            self._runs[key] = self._runs.get(key, 0) + 1
            if self._runs[key] > PLAIN_RUNS:
                self._try_to_record(key, laid, kept, work)
        if key not in self._recordings:
            return work(send_together(laid.arrays, self.device))
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        send_together(laid.arrays, self.device, recording.place)
        recording.graph.replay()
        return recording.result.clone()

    def forget(self) -> None:
        """For members whose numbers lie elsewhere."""
        self._recordings.clear()
        self._runs.clear()
        self._pool = None

    def give_up(self) -> bool:
        """No more recordings, and their memory back, which nothing else can use; whether there was any."""
        held, self.can_record = self._pool is not None, False
        self.forget()
        if held:
            torch.cuda.empty_cache()
        return held

    def _try_to_record(self, key: Hashable, laid: Laid, kept: tuple[object, ...], work: Pass) -> None:
        """A base that looks at its own numbers in a pass cannot be recorded: it is run plainly."""
        del self._runs[key]
        try:
            self._recordings[key] = self._record(laid, kept, work)
        except RuntimeError as error:
            cause = error.__context__ or error
            if is_out_of_memory(error) or is_out_of_memory(cause):
                raise torch.OutOfMemoryError(str(cause)) from error
            self.give_up()
            said = str(cause).splitlines()[0]
            self.notice(f"passes of this base cannot be recorded, and are slower for it: {said}")
        if len(self._recordings) > MOST:
            self._recordings.popitem(last=False)

    def _record(self, laid: Laid, kept: tuple[object, ...], work: Pass) -> Recording:
        graph = torch.cuda.CUDAGraph()
        place = torch.empty(sent_bytes(laid.arrays), dtype=torch.uint8, device=self.device)
        sent = send_together(laid.arrays, self.device, place)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = work(sent)
        finally:
            torch.cuda.set_stream(stream)  # a recording that breaks off leaves its own stream in place
        return Recording(graph, place, result, kept)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
