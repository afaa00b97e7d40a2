"""A disk that is full or fails costs one checkpoint: those before stay whole, and the training goes on."""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.attempts import facts

from loratrack.checkpoints import FencedError, Home
from loratrack.config import RunConfig
from loratrack.errors import StoppedError
from loratrack.experiments.watcher import Nobody
from loratrack.training import keeper as keepers
from loratrack.training.checkpoint import read
from loratrack.training.cohort import Cohort, train
from loratrack.training.keeper import Keeper
from loratrack.training.member import Member

NewCohort = Callable[..., Cohort]
ConfigOf = Callable[..., RunConfig]
Seat = Callable[[Cohort, RunConfig, Path], Member]

CALLS: dict[str, tuple[Any, ...]] = {
    "mkdir": (os,),
    "link": (os,),
    "open": (io, builtins),
    "fsync": (os,),
    "replace": (os,),
    "rename": (os,),
    "save_file": (keepers,),
}
"""All through which a save changes the disk. Deletions of what is left over are not in it: they may fail."""
EACH_STEP = 1e-9


class Disk:
    """Counts what it is asked below one folder; the call with the number `broken` fails.

    `stays`: and all that come after it.
    """

    def __init__(self, folder: Path, number: int = errno.ENOSPC, stays: bool = False) -> None:
        self.folder, self.number, self.stays = str(folder), number, stays
        self.calls: list[str] = []
        self.broken: int | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, places in CALLS.items():
                for place in places:
                    patch.setattr(place, name, self._asked(name, getattr(place, name)))
            yield

    def _asked(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._is_here(name, arguments):
                self.calls.append(name)
                place = len(self.calls) - 1
                if place == self.broken or (self.stays and self.broken is not None and place > self.broken):
                    raise OSError(self.number, os.strerror(self.number))
            return real(*arguments, **named)

        return call

    def _is_here(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """A file that is flushed has no name any more; nobody else flushes any meanwhile."""
        if name == "open" and not set("wax+") & set(str(arguments[1:2])):
            return False
        paths = [str(each) for each in arguments if isinstance(each, str | Path)]
        return name == "fsync" or any(path.startswith(self.folder) for path in paths)


class Heard(list[str]):
    """What is said of checkpoints. That this machine is busy may be said too, at any time."""

    def append(self, text: str) -> None:
        if text.startswith("checkpoint "):
            super().append(text)


@dataclass
class Watched:
    """A member with a best epoch that is saved when the test says so."""

    cohort: Cohort
    member: Member
    home: Home
    keeper: Keeper
    notices: list[str]
    """Of its cohort."""

    def step(self) -> None:
        self.cohort.end_epochs(self.cohort.step())

    def saved(self) -> list[int]:
        """The steps of all visible checkpoints after one more try."""
        self.keeper.save([self.member])
        self.keeper.wait()
        return only_whole(self.home)


@pytest.fixture
def watched(new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path) -> Watched:
    notices = Heard()
    cohort = new_cohort(notices)
    member = seat(cohort, config_of(train={"epochs": 999, "batch_size": 48}), tmp_path)
    cohort.network.train()
    found = Watched(cohort, member, Home(tmp_path / "home"), Keeper(cohort), notices)
    found.keeper.follow(member, found.home, facts(found.home.claim()))
    found.step()
    assert found.saved() == [1, 0]
    assert member.best is not None
    return found


def only_whole(home: Home) -> list[int]:
    """The steps of all visible checkpoints, each of them whole; and nothing else lies beside them."""
    damaged: list[str] = []
    home.newest(damaged.append)
    assert not damaged
    folders = home.folders()
    others = {path for path in home.folder.iterdir() if path.is_dir()} - set(folders)
    assert not others
    return [int(folder.name.split("-")[3]) for folder in folders]


@pytest.mark.parametrize(
    ("number", "stays"), [(errno.ENOSPC, False), (errno.EIO, False), (errno.ENOSPC, True)]
)
def test_whatever_fails_in_a_save_costs_one_checkpoint(watched: Watched, number: int, stays: bool) -> None:
    """Each call of a save fails once, alone or with all that come after it."""
    member, notices, disk = watched.member, watched.notices, Disk(watched.home.folder, number, stays)
    told = f"checkpoint not saved: {os.strerror(number)}; the training can be resumed from epoch "
    with disk.watched():
        watched.step()
        watched.saved()
        asked = list(disk.calls)
        assert set(asked) == set(CALLS), "each of them is called, and so watched"
        for place, name in enumerate(asked):
            watched.step()
            before = only_whole(watched.home)
            del disk.calls[:]
            disk.broken = place
            found = watched.saved()
            disk.broken = None
            if not notices:  # its files were copied where they could not be linked
                assert name in ("mkdir", "link")
                assert found[0] == member.step, place
                continue
            assert [notice.replace(" [Errno 28]", "").startswith(told) for notice in notices] == [True], (
                notices
            )
            if found[0] != member.step:
                assert found == before, place
            else:  # it was visible already
                assert found[1:3] == before, place
            assert member.is_training
            watched.step()
            del notices[:]
            assert watched.saved() == [member.step, found[0]], place
            assert (notices, watched.keeper.has_given_up) == ([], False), place


@contextmanager
def room_in_a_file(limit: int) -> Iterator[None]:
    """No file grows larger than that many bytes, by a limit of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 100, 3000])
def test_a_file_that_the_system_refuses_costs_one_checkpoint(watched: Watched, room: int) -> None:
    """The state, or the tensors, which safetensors writes in its own way."""
    watched.step()
    with room_in_a_file(room):
        assert watched.saved() == [1, 0]
    [notice] = watched.notices
    assert notice.startswith("checkpoint not saved: ")
    assert "File too large" in notice
    assert notice.endswith("; the training can be resumed from epoch 1.0 of 999; free some space")
    assert watched.saved() == [2, 1]


def test_the_second_fault_in_a_row_ends_the_training(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    notices = Heard()
    cohort = new_cohort(notices)
    member = seat(cohort, config_of(train={"epochs": 9, "checkpoint_minutes": EACH_STEP}), tmp_path)
    home, keeper = Home(tmp_path / "home"), Keeper(cohort)
    keeper.follow(member, home, facts(home.claim()))
    keeper.wait()
    with room_in_a_file(100), pytest.raises(StoppedError):
        train(cohort, Nobody(), keeper=keeper)
    assert member.is_training
    assert keeper.has_given_up
    assert only_whole(home) == [0]
    goes_on, *stops = [notice.partition("; ")[2] for notice in notices]
    assert goes_on == "the training can be resumed from the beginning; free some space"
    assert stops
    assert set(stops) == {"the training stops here, and can be resumed from the beginning; free some space"}


def test_a_success_between_two_faults_lets_the_training_go_on(watched: Watched) -> None:
    given_up = []
    for room in (0, resource.RLIM_INFINITY, 0, 0):
        watched.step()
        with room_in_a_file(room):
            watched.saved()
        given_up.append(watched.keeper.has_given_up)
    assert given_up == [False, False, False, True]
    assert len(watched.notices) == 3


def test_members_go_on_from_the_same_step_when_one_cannot_be_saved(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    notices = Heard()
    cohort = new_cohort(notices)
    keeper, homes = Keeper(cohort), []
    for name in ("one", "two"):
        member = seat(cohort, config_of(name), tmp_path)
        homes.append(Home(tmp_path / "homes" / name))
        keeper.follow(member, homes[-1], facts(homes[-1].claim()))
    keeper.wait()
    cohort.step()
    disk = Disk(homes[1].folder)
    disk.broken = 0
    with disk.watched():
        keeper.save(cohort.training)
        keeper.wait()
    assert [notice.partition(";")[0] for notice in notices] == [
        f"checkpoint not saved: {os.strerror(errno.ENOSPC)}"
    ]
    assert [only_whole(home) for home in homes] == [[0], [0]]
    keeper.save(cohort.training)
    keeper.wait()
    assert [only_whole(home) for home in homes] == [[1, 0], [1, 0]]


def test_what_is_no_fault_of_the_disk_is_raised_in_the_loop(
    new_cohort: NewCohort,
    config_of: ConfigOf,
    seat: Seat,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seal(*arguments: object) -> None:
        raise ValueError("no fault of the disk")

    cohort = new_cohort([])
    member, home, keeper = seat(cohort, config_of(), tmp_path), Home(tmp_path / "home"), Keeper(cohort)
    monkeypatch.setattr(Home, "seal", seal)
    with pytest.raises(ValueError, match="no fault of the disk"):
        keeper.follow(member, home, facts(home.claim()))
    assert only_whole(home) == []


def test_what_is_no_text_in_a_notice_is_saved_all_the_same(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort = new_cohort([])
    member, home, keeper = seat(cohort, config_of(), tmp_path), Home(tmp_path / "home"), Keeper(cohort)
    keeper.follow(member, home, replace(facts(home.claim()), notices=["caf\udce9.csv"]))
    checkpoint = home.newest()
    assert checkpoint is not None
    assert read(checkpoint.folder, checkpoint.about).state.notices == ["caf?.csv"]


def test_a_member_that_enters_does_not_put_off_the_others(
    new_cohort: NewCohort,
    config_of: ConfigOf,
    seat: Seat,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trials of a sweep enter all the time, and each is saved at once."""
    seconds = [0.0]
    monkeypatch.setattr(keepers, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    cohort = new_cohort([])
    keeper, homes = Keeper(cohort), []
    for name in ("one", "two", "three"):
        member = seat(cohort, config_of(name, {"checkpoint_minutes": 5}), tmp_path)
        homes.append(Home(tmp_path / "homes" / name))
        keeper.follow(member, homes[-1], facts(homes[-1].claim()))
        cohort.step()
        seconds[0] += 150
        keeper.between_steps([])
    keeper.wait()
    assert [only_whole(home) for home in homes] == [[2, 0], [1, 0], [0]]


def test_an_older_attempt_that_wakes_up_ends_without_a_trace(
    new_cohort: NewCohort, config_of: ConfigOf, seat: Seat, tmp_path: Path
) -> None:
    cohort, home = new_cohort([]), Home(tmp_path / "home")
    keeper = Keeper(cohort)
    for name in ("one", "two"):
        member = seat(cohort, config_of(name, {"checkpoint_minutes": EACH_STEP}), tmp_path)
        own = Home(home.folder / name)
        keeper.follow(member, own, facts(own.claim()))
    cohort.step()
    keeper.save(cohort.training)
    keeper.wait()
    assert Home(home.folder / "two").claim() == 2
    with pytest.raises(FencedError, match="attempt 2 has taken this run over, so attempt 1 must not go on"):
        train(cohort, Nobody(), keeper=keeper)
    assert [member.step for member in cohort.members] == [2, 2]
    assert [only_whole(Home(home.folder / name)) for name in ("one", "two")] == [[1, 0], [1, 0]]
