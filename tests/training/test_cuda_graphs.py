"""Which passes are recorded, replayed, and run plainly; what a GPU does in them is in test_on_a_gpu.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loratrack.model.batch import BatchLayout
from loratrack.training import cuda_graphs
from loratrack.training.cuda_graphs import CapturedPass, GraphCache, Pass, is_out_of_memory


class Pretended(GraphCache):
    """Replays by doing the work again; `fault` is what recording comes to."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        super().__init__(torch.device("cpu"), self.notices.append)
        self.plain, self.replays = 0, 0
        self.fault: Exception | None = None

    def on(self, size: int, *kept: object) -> float:
        """The sum of as many numbers, from a batch of that shape."""
        arrays = {"numbers": np.arange(size, dtype=np.int64)}
        return float(
            self.run(BatchLayout("packed", arrays, (1,), (size,), size, is_ragged=False), kept, self.work)
        )

    def work(self, sent: Mapping[str, Tensor]) -> Tensor:
        self.plain += 1
        return sent["numbers"].sum()

    def _capture(self, batch_layout: BatchLayout, kept: tuple[object, ...], work: Pass) -> CapturedPass:
        if self.fault is not None:
            raise self.fault
        self._pool = "pool"
        graphs = self

        class Graph:
            def replay(self) -> None:
                graphs.replays += 1

        graph: Any = Graph()
        return CapturedPass(graph, torch.empty(0), torch.tensor(batch_layout.arrays["numbers"].sum()), kept)


def test_the_third_pass_of_a_shape_is_recorded_and_later_ones_are_replayed() -> None:
    graphs = Pretended()
    assert [graphs.on(4) for _ in range(5)] == [6.0] * 5
    assert (graphs.plain, graphs.replays) == (2, 3)
    assert graphs.on(5) == 10
    assert (graphs.plain, graphs.replays) == (3, 3)


def test_members_and_what_is_forgotten_are_recorded_anew() -> None:
    graphs, ann, bob = Pretended(), object(), object()
    for _ in range(3):
        graphs.on(4, ann)
    assert (graphs.plain, graphs.replays) == (2, 1)
    graphs.on(4, ann, bob)
    assert (graphs.plain, graphs.replays) == (3, 1)
    graphs.clear()
    graphs.on(4, ann)
    assert (graphs.plain, graphs.replays) == (4, 1)


def test_the_recording_unused_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    graphs = Pretended()
    for size in (3, 4, 3, 5):  # 4 is the one that goes
        for _ in range(3):
            graphs.on(size)
    assert (graphs.plain, graphs.replays) == (6, 6)
    graphs.on(3)
    assert (graphs.plain, graphs.replays) == (6, 7)
    graphs.on(4)
    assert (graphs.plain, graphs.replays) == (7, 7)


def test_a_pass_that_cannot_be_recorded_is_run_plainly_and_told_once() -> None:
    graphs = Pretended()
    fault = RuntimeError("CUDA error: operation failed")
    fault.__context__ = RuntimeError("a wait is not permitted when the stream is capturing\nand more")
    graphs.fault = fault
    assert [graphs.on(4) for _ in range(5)] == [6.0] * 5
    assert (graphs.plain, graphs.replays) == (5, 0)
    assert graphs.notices == [
        "passes of this base cannot be recorded, and are slower for it:"
        " a wait is not permitted when the stream is capturing"
    ]


def test_memory_that_runs_out_while_recording_is_for_the_cohort_to_answer() -> None:
    graphs = Pretended()
    graphs.fault = RuntimeError("operation failed due to a previous error")
    graphs.fault.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    for _ in range(2):
        graphs.on(4)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 2 GiB") as raised:
        graphs.on(4)
    assert is_out_of_memory(raised.value)


def test_recordings_are_given_up_once() -> None:
    graphs = Pretended()
    assert not graphs.disable()
    graphs.is_enabled = True
    for _ in range(3):
        graphs.on(4)
    assert graphs.disable()
    assert not graphs.disable()
    assert [graphs.on(4) for _ in range(4)] == [6.0] * 4
    assert (graphs.plain, graphs.replays) == (6, 1)
