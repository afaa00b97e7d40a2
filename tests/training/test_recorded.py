"""Which passes are recorded, replayed, and run plainly; what a GPU does in them is in test_on_a_gpu.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loratrack.model.batch import Laid
from loratrack.training import recorded
from loratrack.training.recorded import Pass, Recorder, Recording, is_out_of_memory


class Pretended(Recorder):
    """Replays by doing the work again; `fault` is what recording comes to."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        super().__init__(torch.device("cpu"), self.notices.append)
        self.plain, self.replays = 0, 0
        self.fault: Exception | None = None

    def on(self, size: int, *kept: object) -> float:
        """The sum of as many numbers, from a batch of that shape."""
        arrays = {"numbers": np.arange(size, dtype=np.int64)}
        return float(self.run(Laid("packed", arrays, (1,), (size,), size, is_ragged=False), kept, self.work))

    def work(self, sent: Mapping[str, Tensor]) -> Tensor:
        self.plain += 1
        return sent["numbers"].sum()

    def _record(self, laid: Laid, kept: tuple[object, ...], work: Pass) -> Recording:
        if self.fault is not None:
            raise self.fault
        self._pool = "pool"
        recorder = self

        class Graph:
            def replay(self) -> None:
                recorder.replays += 1

        graph: Any = Graph()
        return Recording(graph, torch.empty(0), torch.tensor(laid.arrays["numbers"].sum()), kept)


def test_the_third_pass_of_a_shape_is_recorded_and_later_ones_are_replayed() -> None:
    recorder = Pretended()
    assert [recorder.on(4) for _ in range(5)] == [6.0] * 5
    assert (recorder.plain, recorder.replays) == (2, 3)
    assert recorder.on(5) == 10
    assert (recorder.plain, recorder.replays) == (3, 3)


def test_members_and_what_is_forgotten_are_recorded_anew() -> None:
    recorder, ann, bob = Pretended(), object(), object()
    for _ in range(3):
        recorder.on(4, ann)
    assert (recorder.plain, recorder.replays) == (2, 1)
    recorder.on(4, ann, bob)
    assert (recorder.plain, recorder.replays) == (3, 1)
    recorder.forget()
    recorder.on(4, ann)
    assert (recorder.plain, recorder.replays) == (4, 1)


def test_the_recording_unused_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST", 2)
    recorder = Pretended()
    for size in (3, 4, 3, 5):  # 4 is the one that goes
        for _ in range(3):
            recorder.on(size)
    assert (recorder.plain, recorder.replays) == (6, 6)
    recorder.on(3)
    assert (recorder.plain, recorder.replays) == (6, 7)
    recorder.on(4)
    assert (recorder.plain, recorder.replays) == (7, 7)


def test_a_pass_that_cannot_be_recorded_is_run_plainly_and_told_once() -> None:
    recorder = Pretended()
    fault = RuntimeError("CUDA error: operation failed")
    fault.__context__ = RuntimeError("a wait is not permitted when the stream is capturing\nand more")
    recorder.fault = fault
    assert [recorder.on(4) for _ in range(5)] == [6.0] * 5
    assert (recorder.plain, recorder.replays) == (5, 0)
    assert recorder.notices == [
        "passes of this base cannot be recorded, and are slower for it:"
        " a wait is not permitted when the stream is capturing"
    ]


def test_memory_that_runs_out_while_recording_is_for_the_cohort_to_answer() -> None:
    recorder = Pretended()
    recorder.fault = RuntimeError("operation failed due to a previous error")
    recorder.fault.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    for _ in range(2):
        recorder.on(4)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 2 GiB") as raised:
        recorder.on(4)
    assert is_out_of_memory(raised.value)


def test_recordings_are_given_up_once() -> None:
    recorder = Pretended()
    assert not recorder.give_up()
    recorder.can_record = True
    for _ in range(3):
        recorder.on(4)
    assert recorder.give_up()
    assert not recorder.give_up()
    assert [recorder.on(4) for _ in range(4)] == [6.0] * 4
    assert (recorder.plain, recorder.replays) == (6, 1)
