"""The memory that a checkpoint is copied into is made before it is needed, and not where it is not needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loratrack.checkpoints import Home
from loratrack.config import RunConfig
from loratrack.experiments.differences import surroundings
from loratrack.training.checkpoint import TRAINED, read
from loratrack.training.cohort import Cohort
from loratrack.training.keeper import Facts, Keeper
from loratrack.training.member import Member

MONTH = 44_640.0
NewCohort = Callable[..., Cohort]
ConfigOf = Callable[..., RunConfig]
Seat = Callable[[Cohort, RunConfig, Path], Member]
Begin = Callable[..., tuple[Cohort, Member, Keeper, Home]]


@pytest.fixture
def begin(new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path) -> Begin:
    """A member that is followed, and saved every so many minutes, or at the end of each epoch."""

    def make(minutes: float | None, rank: int = 4) -> tuple[Cohort, Member, Keeper, Home]:
        cohort = new_cohort([])
        config = config_of("one", {"checkpoint_minutes": minutes}, lora={"rank": rank})
        member = seat(cohort, config, tmp_path / "best")
        home = Home(tmp_path / "checkpoints")
        keeper = Keeper(cohort)
        keeper.follow(member, home, Facts("run", home.claim(), "0", "0", "0", surroundings(), []))
        keeper.wait()
        cohort.network.train()
        return cohort, member, keeper, home

    return make


def room(keeper: Keeper, member: Member) -> dict[str, Tensor]:
    return keeper._followed[member.name].buffers


def test_room_for_the_first_save_is_made_after_a_step_and_used(begin: Begin) -> None:
    cohort, member, keeper, home = begin(None)
    keeper.between_steps([])
    assert room(keeper, member) == {}  # the optimizer has no numbers yet
    cohort.step()
    keeper.between_steps([])
    keeper.wait()
    places = {name: buffer.data_ptr() for name, buffer in room(keeper, member).items()}
    assert room(keeper, member)[TRAINED].count_nonzero() == 0

    cohort.step()
    keeper.save([member])
    keeper.wait()
    assert {name: buffer.data_ptr() for name, buffer in room(keeper, member).items()} == places
    checkpoint = home.newest()
    assert checkpoint is not None
    saved = read(checkpoint.folder, checkpoint.about).tensors
    assert saved.keys() >= places.keys()
    assert torch.equal(saved[TRAINED], member.flat_parameters.values)


def test_no_room_is_made_long_before_the_first_save(begin: Begin) -> None:
    cohort, member, keeper, _ = begin(MONTH)
    cohort.step()
    keeper.between_steps([])
    assert room(keeper, member) == {}


def test_room_is_made_in_the_second_half_of_the_time_to_the_first_save(begin: Begin) -> None:
    cohort, member, keeper, home = begin(MONTH)
    cohort.step()
    keeper._followed[member.name].saved_at -= 60 * MONTH * 0.6
    keeper.between_steps([])
    keeper.wait()
    assert TRAINED in room(keeper, member)
    about = home.about()
    assert about is not None
    assert about.step == 0  # nothing was saved yet


def test_a_save_that_comes_while_room_is_made_waits_for_it(begin: Begin) -> None:
    """Else the thread would write its zeros over the copy."""
    cohort, member, keeper, home = begin(None, rank=8192)
    for step in range(1, 6):
        cohort.step()
        room(keeper, member).clear()
        keeper.between_steps([])
        keeper.save([member])
        keeper.wait()
        checkpoint = home.newest()
        assert checkpoint is not None
        assert checkpoint.about.step == step
        tensors = read(checkpoint.folder, checkpoint.about).tensors
        assert torch.equal(tensors[TRAINED], member.flat_parameters.values)


def test_whoever_may_read_a_checkpoint_may_read_all_of_it(begin: Begin) -> None:
    cohort, member, keeper, home = begin(None)
    while member.best is None:
        cohort.end_epochs(cohort.step())
    keeper.save([member])
    keeper.wait()
    newest = home.newest()
    assert newest is not None
    files = [path for path in newest.folder.rglob("*") if path.is_file()]
    assert "heads.safetensors" in {path.name for path in files}
    assert len({path.stat().st_mode for path in files}) == 1
