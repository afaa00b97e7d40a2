from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from loratrack.config import RunConfig
from loratrack.data import Dataset
from loratrack.model.network import Network
from loratrack.training import layout
from loratrack.training.cohort import Cohort
from loratrack.training.member import Member


@pytest.fixture
def network(
    new_cohort: Callable[[list[str]], Cohort],
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> Network:
    cohort = new_cohort([])
    seat(cohort, config_of(), tmp_path)
    return cohort.network


def choose(network: Network, dataset: Dataset, notices: list[str]) -> str:
    return layout.choose_layout(network, dataset.train, "member-tiny", 8, notices.append)


@pytest.mark.parametrize(("slow", "expected"), [("packed", "padded"), ("padded", "packed")])
def test_the_faster_layout_is_taken_and_told(
    network: Network, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, slow: str, expected: str
) -> None:
    monkeypatch.setattr(layout, "step_seconds", lambda *words: 0.009 if words[3] == slow else 0.001)
    notices: list[str] = []
    assert choose(network, dataset, notices) == expected
    assert notices[0].startswith(f"layout: {expected} (a step of 8 examples: packed ")


def test_packing_that_gives_other_logits_is_refused(
    network: Network, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_difference", lambda *_: 0.5)
    notices: list[str] = []
    assert choose(network, dataset, notices) == "padded"
    assert "does not give the same result" in notices[0]


def test_the_measuring_leaves_no_trace(network: Network, dataset: Dataset) -> None:
    before = [value.detach().clone() for value in network.parameters("member-tiny")]
    state = torch.get_rng_state()
    choose(network, dataset, [])
    after: list[Any] = network.parameters("member-tiny")
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not network.flat_parameters("member-tiny").gradients.any()
    assert torch.equal(state, torch.get_rng_state())
