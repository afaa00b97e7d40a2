"""Out of memory in a cohort: the member that is too large pays for it, its neighbours do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from loratrack.config import RunConfig
from loratrack.training.cohort import Cohort
from loratrack.training.member import Member

NewCohort = Callable[[list[str]], Cohort]
ConfigOf = Callable[..., RunConfig]
Seat = Callable[[Cohort, RunConfig, Path], Member]


def trained_weights(cohort: Cohort, member: Member, count: int) -> list[Any]:
    for _ in range(count):
        cohort.step()
    return [parameter.detach().clone() for parameter in cohort.network.parameters(member.name)]


def refuse(cohort: Cohort, name: str, most_tokens: int) -> None:
    """Passes of this member with more tokens do not fit."""

    def look(module: torch.nn.Module, inputs: Any) -> None:
        if name in cohort.network.router.route.members and inputs[0].numel() > most_tokens * 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    cohort.network.encoder.encoder.layer[0].attention.self.key.register_forward_pre_hook(look)


def test_a_member_that_is_too_large_fails_and_leaves_its_neighbours_as_they_were(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    alone = new_cohort([])
    expected = trained_weights(alone, seat(alone, config_of("small"), tmp_path / "alone"), 4)
    notices: list[str] = []
    cohort = new_cohort(notices)
    small, greedy = (seat(cohort, config_of(name), tmp_path) for name in ("small", "greedy"))
    refuse(cohort, greedy.name, most_tokens=0)
    learned = trained_weights(cohort, small, 4)
    assert (greedy.status, greedy.reason) == (
        "failed",
        "out of memory with a micro-batch of 1 example; lower data.max_len, set"
        " train.gradient_checkpointing=true, or take a smaller base",
    )
    assert small.is_training
    assert small.step == 4
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(learned, expected, strict=True))


def test_only_the_large_members_micro_batches_are_halved(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    small, large = (seat(cohort, config_of(name), tmp_path) for name in ("small", "large"))
    refuse(cohort, large.name, most_tokens=40)
    cohort.step()
    assert cohort.memory.micro_batch_limits.keys() == {large.name}
    assert (small.step, large.step) == (1, 1)
