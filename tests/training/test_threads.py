from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from loratrack.training.threads import choose_threads


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("seconds_of_one", "expected"), [(0.1, 1), (0.39, 4), (2.0, 4)])
def test_one_thread_is_taken_where_it_is_clearly_faster(seconds_of_one: float, expected: int) -> None:
    torch.set_num_threads(4)
    notices: list[str] = []
    choose_threads(lambda: seconds_of_one if torch.get_num_threads() == 1 else 0.4, notices.append)
    assert torch.get_num_threads() == expected
    assert bool(notices) == (expected == 1)


def test_one_thread_needs_no_measuring() -> None:
    torch.set_num_threads(1)
    choose_threads(lambda: pytest.fail("measured"), print)
    assert torch.get_num_threads() == 1
