"""Which passes are captured, replayed, and run eagerly; what a GPU does in them is in test_on_a_gpu.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from loratrack.model.batch import BatchLayout
from loratrack.model.out_of_memory import is_out_of_memory
from loratrack.training import cuda_graphs
from loratrack.training.cuda_graphs import CapturedPass, GraphCache, Pass


class Pretended(GraphCache):
    """Replays by doing the work again; `fault` is what capturing raises."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        super().__init__(torch.device("cpu"), self.notices.append)
        self.eager, self.replays = 0, 0
        self.fault: Exception | None = None

    def on(self, size: int, *targets: object) -> float:
        """The sum of as many numbers, from a batch of that shape."""
        arrays = {"numbers": np.arange(size, dtype=np.int64)}
        return float(
            self.run(BatchLayout("packed", arrays, (1,), (size,), size, is_ragged=False), targets, self.work)
        )

    def work(self, sent: Mapping[str, Tensor]) -> Tensor:
        self.eager += 1
        return sent["numbers"].sum()

    def _capture(self, batch_layout: BatchLayout, targets: tuple[object, ...], work: Pass) -> CapturedPass:
        if self.fault is not None:
            raise self.fault
        self._pool = "pool"
        graphs = self

        class Graph:
            def replay(self) -> None:
                graphs.replays += 1

        return CapturedPass(
            Graph(), torch.empty(0), torch.tensor(batch_layout.arrays["numbers"].sum()), targets
        )


def test_the_third_pass_of_a_shape_is_captured_and_later_ones_are_replayed() -> None:
    graphs = Pretended()
    assert [graphs.on(4) for _ in range(5)] == [6.0] * 5
    assert (graphs.eager, graphs.replays) == (2, 3)
    assert graphs.on(5) == 10
    assert (graphs.eager, graphs.replays) == (3, 3)


def test_other_members_and_a_cleared_cache_need_new_graphs() -> None:
    graphs, ann, bob = Pretended(), object(), object()
    for _ in range(3):
        graphs.on(4, ann)
    assert (graphs.eager, graphs.replays) == (2, 1)
    graphs.on(4, ann, bob)
    assert (graphs.eager, graphs.replays) == (3, 1)
    graphs.clear()
    graphs.on(4, ann)
    assert (graphs.eager, graphs.replays) == (4, 1)


def test_the_least_recently_used_graph_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    graphs = Pretended()
    for size in (3, 4, 3, 5):  # 4 is the one that goes
        for _ in range(3):
            graphs.on(size)
    assert (graphs.eager, graphs.replays) == (6, 6)
    graphs.on(3)
    assert (graphs.eager, graphs.replays) == (6, 7)
    graphs.on(4)
    assert (graphs.eager, graphs.replays) == (7, 7)


def test_a_pass_that_cannot_be_captured_stays_eager_and_is_reported_once() -> None:
    graphs = Pretended()
    fault = RuntimeError("CUDA error: operation failed")
    fault.__context__ = RuntimeError("a wait is not permitted when the stream is capturing\nand more")
    graphs.fault = fault
    assert [graphs.on(4) for _ in range(5)] == [6.0] * 5
    assert (graphs.eager, graphs.replays) == (5, 0)
    assert graphs.notices == [
        "this base does not run as a CUDA graph, so its steps are slower:"
        " a wait is not permitted when the stream is capturing"
    ]


def test_memory_that_runs_out_while_capturing_is_raised_to_the_step() -> None:
    graphs = Pretended()
    graphs.fault = RuntimeError("operation failed due to a previous error")
    graphs.fault.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    for _ in range(2):
        graphs.on(4)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 2 GiB") as raised:
        graphs.on(4)
    assert is_out_of_memory(raised.value)


def test_graphs_are_disabled_once() -> None:
    graphs = Pretended()
    assert not graphs.disable()
    graphs.is_enabled = True
    for _ in range(3):
        graphs.on(4)
    assert graphs.disable()
    assert not graphs.disable()
    assert [graphs.on(4) for _ in range(4)] == [6.0] * 4
    assert (graphs.eager, graphs.replays) == (6, 1)
