"""A checkpoint from an enemy who may write the store: it is refused in one message, whatever it holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratrack.checkpoints import CHECKPOINT, MANIFEST, MAX_MANIFEST_BYTES, Home
from loratrack.config import RunConfig
from loratrack.errors import StoppedError, UserError
from loratrack.experiments.differences import surroundings
from loratrack.training.checkpoint import BEST, STATE, TENSORS, UNREAD, read, restore
from loratrack.training.cohort import Cohort, StopWhen, train
from loratrack.training.keeper import Facts, Keeper
from loratrack.training.member import Member

Seat = Callable[[Cohort, RunConfig, Path], Member]


class Silent:
    def step(self, members: object) -> None: ...

    def epoch(self, member: Member) -> None: ...


@pytest.fixture
def home(
    tmp_path: Path, new_cohort: Callable[[list[str]], Cohort], config_of: Callable[..., RunConfig], seat: Seat
) -> Home:
    """Of a run that was stopped at step 7 of 12, in the middle of its second epoch."""
    cohort, home = new_cohort([]), Home(tmp_path / "run")
    member = seat(cohort, config_of(), tmp_path / "work")
    keeper = Keeper(cohort)
    keeper.follow(
        member, home, Facts("run", home.claim(), "c" * 64, "d" * 64, "b" * 64, surroundings(), notices=[])
    )
    with pytest.raises(StoppedError):
        train(cohort, Silent(), stop=StopWhen(lambda: member.step == 7), keeper=keeper)
    return home


@pytest.fixture
def resumed(
    home: Home,
    tmp_path: Path,
    new_cohort: Callable[[list[str]], Cohort],
    config_of: Callable[..., RunConfig],
    seat: Seat,
) -> Callable[[], Member]:
    """The run as another process takes it up and trains it to its end."""

    def resume() -> Member:
        checkpoint = home.newest()
        assert checkpoint is not None
        cohort = new_cohort([])
        member = seat(cohort, config_of(), tmp_path / "again")
        restore(read(checkpoint.folder, checkpoint.about), member, cohort)
        train(cohort, Silent())
        return member

    return resume


def newest(home: Home) -> Path:
    return home.folders()[0]


def seal(folder: Path, **about: object) -> Path:
    """Give the folder the manifest of what it holds now, and the name that goes with it."""
    content = json.loads((folder / MANIFEST).read_bytes())
    content["about"] |= about
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    content["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if name != MANIFEST
    }
    text = json.dumps(content)
    (folder / MANIFEST).write_text(text)
    match = CHECKPOINT.fullmatch(folder.name)
    assert match is not None
    own = hashlib.sha256(text.encode()).hexdigest()[: len(match[3])]
    return folder.rename(folder.with_name(f"attempt-{match[1]}-step-{match[2]}-{own}"))


def change_state(home: Home, **values: object) -> None:
    folder = newest(home)
    state = json.loads((folder / STATE).read_bytes())
    (folder / STATE).write_text(json.dumps(state | values))
    about = {name: values[name] for name in ("step", "is_trained") if name in values}
    seal(folder, **{name: value for name, value in about.items() if isinstance(value, int)})


def test_as_it_was_written_it_goes_on(home: Home, resumed: Callable[[], Member]) -> None:
    change_state(home)
    member = resumed()
    assert (member.step, len(member.history)) == (12, 2)


STATES: dict[str, Any] = {
    "a step of the future": {"step": 10**9},
    "another epoch": {"epoch": 1},
    "an epoch of the future": {"epoch": 10**9},
    "an epoch too few": {"history": []},
    "no number": {"epoch_seconds": float("nan")},
    "an epoch without scores": {"history": [{}]},
    "a best epoch without scores": {"best": {"epoch": 1, "step": 6, "values": {}, "since": 1}},
    "trained without a best epoch": {"is_trained": True, "best": None},
    "trained and in the middle": {"is_trained": True, "step": 7, "epoch": 10**9},
    "losses of other tasks": {"meter_sums": [0.5], "meter_targets": 4},
    "losses of no targets": {"meter_sums": [0.5, 0.5], "meter_targets": 0},
    "targets of steps that never were": {"unread_targets": [8] * 99},
    "a step without targets": {"unread_targets": [0]},
    "no threads": {"threads": 0},
    "more threads than there are machines": {"threads": 10**6},
    "micro-batches of nothing": {"micro_batch_limit": 0},
    "no passes": {"passes": 0},
    "a parameter that is no number": {"optimizer": {"one": {"step": 1}}},
    "a parameter that is not there": {"optimizer": {"77": {"step": 1}}},
    "an environment of another shape": {"environment": {"packages": [], "gpu": {"devices": ["one"]}}},
    "signs for the terminal": {"base_sha256": "\x1b]0;owned\x07"},
    "other rows": {"num_rows": 7},
    "a list": {"best": []},
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_no_training_has_is_refused(
    home: Home, resumed: Callable[[], Member], case: str
) -> None:
    change_state(home, **STATES[case])
    with pytest.raises(UserError, match=str(home.folder)):
        resumed()


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{}", "\0" * 1000, '{"format": 1e999}'])
def test_a_state_that_is_none_is_refused(home: Home, resumed: Callable[[], Member], text: str) -> None:
    (newest(home) / STATE).write_text(text)
    seal(newest(home))
    with pytest.raises(UserError, match=str(home.folder)):
        resumed()


def _none(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {}


TENSORS_OF: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "none": _none,
    "other numbers": lambda tensors: tensors | {"trained": tensors["trained"].double()},
    "too many": lambda tensors: tensors | {"trained": torch.zeros(10**6)},
    "a larger optimizer": lambda tensors: tensors | {"optimizer.0.exp_avg": torch.zeros(3, 3)},
    "a parameter that is no number": lambda tensors: tensors | {"optimizer.x.exp_avg": torch.zeros(3)},
    "losses of another shape": lambda tensors: tensors | {UNREAD: torch.zeros(2, 2, 2)},
}


@pytest.mark.parametrize("case", TENSORS_OF)
def test_tensors_of_another_shape_are_refused(home: Home, resumed: Callable[[], Member], case: str) -> None:
    file = newest(home) / TENSORS
    save_file(TENSORS_OF[case](load_file(file)), file)
    seal(newest(home))
    with pytest.raises(UserError, match=str(home.folder)):
        resumed()


def test_best_weights_that_are_not_there_are_told(home: Home, resumed: Callable[[], Member]) -> None:
    shutil.rmtree(newest(home) / BEST)
    seal(newest(home))
    with pytest.raises(UserError, match="does not fit this run"):
        resumed()


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", ".."])
def test_nothing_is_read_through_a_link(home: Home, target: str) -> None:
    (newest(home) / BEST / "more").symlink_to(target)
    seal(newest(home))
    notices: list[str] = []
    home.newest(notices.append)
    assert "best/more: a link, which may lead out of it" in notices[0]


@pytest.mark.parametrize("name", [MANIFEST, STATE, TENSORS])
def test_a_pipe_does_not_hold_its_reader(home: Home, name: str) -> None:
    file = newest(home) / name
    file.unlink()
    os.mkfifo(file)
    notices: list[str] = []
    home.newest(notices.append)
    assert "is damaged and passed over" in notices[0]


@pytest.mark.parametrize("name", [MANIFEST, STATE, TENSORS])
def test_a_folder_in_the_place_of_a_file_is_damage(home: Home, name: str) -> None:
    file = newest(home) / name
    file.unlink()
    file.mkdir()
    notices: list[str] = []
    home.newest(notices.append)
    assert "is damaged and passed over" in notices[0]


def test_a_manifest_of_gigabytes_is_not_read(home: Home) -> None:
    folder = newest(home)
    with (folder / MANIFEST).open("wb") as opened:
        opened.truncate(2**40)
    notices: list[str] = []
    home.newest(notices.append)
    assert f"must be a file of at most {MAX_MANIFEST_BYTES:,} bytes" in notices[0]
    assert home.about() is not None  # of the one before


def test_files_outside_of_it_are_no_part_of_it(home: Home) -> None:
    folder = newest(home)
    secret = home.folder.parent / "secret"
    secret.write_text("secret")
    content = json.loads((folder / MANIFEST).read_bytes())
    content["files"]["../../secret"] = hashlib.sha256(b"secret").hexdigest()
    text = json.dumps(content)
    (folder / MANIFEST).write_text(text)
    own = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.rename(folder.with_name(f"attempt-1-step-00000007-{own}"))
    notices: list[str] = []
    home.newest(notices.append)
    assert "../../secret: missing" in notices[0]


ABOUTS: dict[str, Any] = {
    "no steps in an epoch": {"epoch_steps": 0},
    "a step larger than any number of the machine": {"step": 10**400},
    "a step below zero": {"step": -1},
    "epochs below zero": {"epochs": -3},
    "signs for the terminal": {"exp_id": "\x1b[2Jowned"},
    "two lines": {"exp_id": "one\ntwo"},
    "a name without an end": {"exp_id": "e" * 10_000},
}


@pytest.mark.parametrize("case", ABOUTS)
def test_what_is_shown_of_a_run_is_checked(home: Home, case: str) -> None:
    for folder in home.folders():
        seal(folder, **ABOUTS[case])
    assert home.about() is None
