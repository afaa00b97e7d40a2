from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.config.train import Train
from loratrack.training.schedule import epoch_batches, learning_rate, micro_batches


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_an_epoch_has_every_row_once(rows: int, size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(rows, size, seed, epoch)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert all(len(batch) == size for batch in batches[:-1])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, again = epoch_batches(40, 8, 1, 1), epoch_batches(40, 8, 1, 1)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for seed, epoch in [(1, 2), (2, 1)]:
        other = epoch_batches(40, 8, seed, epoch)
        assert any((a != b).any() for a, b in zip(first, other, strict=True))


@given(st.integers(1, 70), st.integers(1, 70))
def test_micro_batches_are_the_batch_in_order(rows: int, size: int) -> None:
    parts = micro_batches(np.arange(rows), size)
    assert np.concatenate(parts).tolist() == list(range(rows))
    assert max(map(len, parts)) <= size


def rates(**settings: object) -> list[float]:
    train = Train.model_validate({"lr": 1.0, "warmup_share": 0.2, **settings})
    return [learning_rate(train, step, 10) for step in range(10)]


def test_warm_up_climbs_to_the_peak() -> None:
    assert rates()[:3] == [0.5, 1.0, 1.0]


def test_linear_falls_evenly_towards_zero() -> None:
    falls = np.diff(rates(schedule="linear")[2:])
    assert falls == pytest.approx(np.full(7, -1 / 8))


def test_cosine_is_halfway_down_in_the_middle() -> None:
    assert rates(schedule="cosine")[6] == pytest.approx(0.5)
    assert rates(schedule="cosine")[9] < 0.05


def test_constant_stays() -> None:
    assert rates(schedule="constant")[2:] == [1.0] * 8


def test_without_warm_up_the_first_step_is_at_the_peak() -> None:
    assert rates(warmup_share=0)[0] == 1.0
