"""Each optimizer beside the plain one, in a loop that is written with torch and PEFT alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.plain import Groups, Plain
from transformers.optimization import Adafactor

from loratrack.config import RunConfig
from loratrack.experiments.watcher import Nobody
from loratrack.training.cohort import Cohort, train
from loratrack.training.member import Member


class LionOfThePaper:
    """Algorithm 2 of Chen et al. 2023, in its own letters."""

    def __init__(self, groups: Groups) -> None:
        self.param_groups = groups
        self.m = {id(w): torch.zeros_like(w) for group in groups for w in group["params"]}

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for w in group["params"]:
                g, m = w.grad, self.m[id(w)]
                c = 0.9 * m + (1 - 0.9) * g
                w -= group["lr"] * (torch.sign(c) + group["weight_decay"] * w)
                self.m[id(w)] = 0.99 * m + (1 - 0.99) * g

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for w in group["params"]:
                w.grad = None


OPTIMIZERS: dict[str, tuple[float, Callable[[Groups], Any]]] = {
    "adamw": (5e-3, torch.optim.AdamW),
    "adam": (5e-3, torch.optim.Adam),
    "sgd": (0.1, lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)),
    "lion": (1e-3, LionOfThePaper),
    "adafactor": (
        5e-3,
        lambda groups: Adafactor(groups, lr=5e-3, scale_parameter=False, relative_step=False),
    ),
}


@pytest.fixture(scope="module")
def trained(
    new_cohort: Callable[..., Cohort],
    config_of: Callable[..., RunConfig],
    seat: Callable[..., Member],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Member, Plain]]:
    """All of them as members of one cohort, and each by itself in plain torch; both ended in mid-epoch."""
    folder, cohort = tmp_path_factory.mktemp("optimizers"), new_cohort([])
    found = {}
    for name, (rate, plain) in OPTIMIZERS.items():
        rates = {"lr": rate, "optimizer": name, "weight_decay": 0.1, "epochs": 3, "max_steps": 15}
        config = config_of(name, rates, lora={"rank": 4, "dropout": 0, "target_modules": "all-linear"})
        member = seat(cohort, config, folder)
        found[name] = member, Plain(member, plain)
    train(cohort, Nobody())
    for _, alone in found.values():
        alone.train()
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_member_learns_what_the_plain_optimizer_does(
    trained: dict[str, tuple[Member, Plain]], name: str
) -> None:
    member, alone = trained[name]
    assert member.step == 15
    assert alone.largest_difference(member) < 1e-5
