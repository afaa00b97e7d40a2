"""Checkpoints on disk: numbered attempts, a fence between them, and no damage that is not noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.attempts import facts
from tests.cohorts import config_of, new_cohort, seat  # noqa: F401

from loratrack.checkpoints import (
    MANIFEST,
    About,
    Checkpoint,
    FencedError,
    Home,
    Sealed,
    home_of,
    homes,
    remove,
)
from loratrack.config import RunConfig
from loratrack.training.cohort import Cohort
from loratrack.training.keeper import Keeper
from loratrack.training.member import Member

ABOUT = About(
    run_id="0" * 32,
    exp_id="tiny",
    config_sha256="a",
    data_sha256="b",
    attempt=1,
    step=0,
    epoch_steps=10,
    epochs=2,
)


def sealed(home: Home, attempt: int, step: int) -> Sealed:
    """One file, whose content is the step."""
    draft = home.draft()
    (draft / "state").write_text(f"step {step}")
    return home.seal(draft, ABOUT.model_copy(update={"attempt": attempt, "step": step}))


def published(home: Home, attempt: int, step: int) -> Path:
    one = sealed(home, attempt, step)
    home.publish(one)
    return one.folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


CLAIM = """
import sys
from pathlib import Path
from loratrack.checkpoints import Home

print("ready", flush=True)
sys.stdin.readline()
print(*[Home(Path(sys.argv[1])).claim() for _ in range(50)])
"""


def test_no_two_attempts_have_the_same_number(tmp_path: Path) -> None:
    """In two processes and in threads of this one, at the same time."""
    home = Home(tmp_path / "run")
    command = [sys.executable, "-c", CLAIM, str(home.folder)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: home.claim(), range(100)))
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0
        numbers += [int(number) for number in output.split()]
    assert len(numbers) == 200
    assert len(set(numbers)) == 200
    assert home.attempt() == max(numbers)


def test_attempts_are_counted_from_one_and_not_by_their_letters(tmp_path: Path) -> None:
    home = Home(tmp_path / "run")
    assert home.attempt() == 0
    assert [home.claim() for _ in range(11)] == list(range(1, 12))
    assert home.attempt() == 11


def test_an_older_attempt_may_not_publish(tmp_path: Path) -> None:
    home = Home(tmp_path / "run")
    first = home.claim()
    before = published(home, first, 5)
    late = sealed(home, first, 6)
    home.check_attempt(first)
    (home.folder / "attempt-2").touch()  # by a process that has not seen the draft
    message = rf"^{home.folder}: attempt 2 has taken this run over, so attempt 1 must not go on$"
    with pytest.raises(FencedError, match=message):
        home.check_attempt(first)
    with pytest.raises(FencedError, match=message):
        home.publish(late)
    assert home.folders() == [before]
    newer = published(home, 2, 1)
    assert home.folders() == [newer, before], "the newer attempt counts more than the higher step"


def test_nobody_publishes_where_the_run_has_ended(tmp_path: Path) -> None:
    home = Home(tmp_path / "run")
    attempt = home.claim()
    home.remove()
    with pytest.raises(
        FencedError,
        match=rf"^{home.folder}: another process has ended this run, so attempt 1 must not go on$",
    ):
        home.check_attempt(attempt)
    assert names(tmp_path) == []


def test_a_claim_removes_what_dead_attempts_have_left_half_made(tmp_path: Path) -> None:
    home = Home(tmp_path / "run")
    kept = published(home, home.claim(), 1)
    sealed(home, 1, 2)
    (home.draft() / "half").touch()
    assert len(names(home.folder)) == 4
    home.claim()
    assert names(home.folder) == ["attempt-1", kept.name, "attempt-2"]


def test_two_are_kept(tmp_path: Path) -> None:
    home = Home(tmp_path / "run")
    attempt = home.claim()
    folders = [published(home, attempt, step) for step in (1, 2, 9, 10)]
    assert home.folders() == [folders[3], folders[2]]
    assert names(home.folder) == ["attempt-1", *sorted(folder.name for folder in folders[2:])]
    found = home.newest()
    assert found is not None
    assert (found.folder, found.about.step) == (folders[3], 10)
    assert (found.folder / "state").read_text() == "step 10"


class Interrupted(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("count", [0, 1])
def test_a_removal_that_is_interrupted_shows_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """After so many files are gone."""
    home = Home(tmp_path / "run")
    attempt = home.claim()
    folders = [published(home, attempt, step) for step in (1, 2)]
    real, left = os.unlink, iter(range(count))

    def unlink(*arguments: object, **named: object) -> None:
        if next(left, None) is None:
            raise Interrupted
        real(*arguments, **named)  # type: ignore[arg-type]

    third = sealed(home, attempt, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(Interrupted):
            home.publish(third)
    assert home.folders() == [third.folder, folders[1]]
    assert home.newest(pytest.fail) == Checkpoint(third.folder, third.about)
    home.claim()
    assert names(home.folder) == ["attempt-1", folders[1].name, third.folder.name, "attempt-2"]


def test_a_run_whose_removal_is_interrupted_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_of(tmp_path, "run")
    published(home, home.claim(), 1)
    assert homes(tmp_path).keys() == {"run"}

    def unlink(*arguments: object, **named: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(Interrupted):
            home.remove()
    assert homes(tmp_path) == {}
    assert home.newest(pytest.fail) is None
    home.remove()  # nothing is there any more, which is no fault


def test_two_who_remove_the_same_do_no_harm(tmp_path: Path) -> None:
    home = Home(tmp_path / "run")
    folder = published(home, home.claim(), 1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(remove, [folder] * 4))
    assert names(home.folder) == ["attempt-1"]


FILES = (
    "manifest.json",
    "state.json",
    "config_copy.yaml",
    "training.safetensors",
    "best/heads.safetensors",
    "best/lora_adapter/adapter_config.json",
    "best/lora_adapter/adapter_model.safetensors",
)


@pytest.fixture(scope="module")
def real_home(
    new_cohort: Callable[..., Cohort],  # noqa: F811
    config_of: Callable[..., RunConfig],  # noqa: F811
    seat: Callable[[Cohort, RunConfig, Path], Member],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Home:
    """Two checkpoints of a training, each with its best epoch."""
    folder, cohort = tmp_path_factory.mktemp("real"), new_cohort([])
    member = seat(cohort, config_of(train={"batch_size": 48, "epochs": 9}), folder)
    home, keeper = Home(folder / "home"), Keeper(cohort)
    keeper.follow(member, home, facts(home.claim()))
    for _ in range(3):
        cohort.end_epochs(cohort.step())
        keeper.save([member])
    keeper.wait()
    return home


@pytest.fixture
def home(real_home: Home, tmp_path: Path) -> Home:
    """A copy of them to be damaged."""
    shutil.copytree(real_home.folder, tmp_path / "home")
    return Home(tmp_path / "home")


def test_these_are_all_files_of_a_checkpoint(home: Home) -> None:
    for folder in home.folders():
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == set(FILES)
    assert [int(folder.name.split("-")[3]) for folder in home.folders()] == [3, 2]


def flipped(place: float) -> Callable[[Path], None]:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[round(place * (len(content) - 1))] ^= 1
        file.write_bytes(content)

    return flip


def shorter(share: float) -> Callable[[Path], None]:
    def cut(file: Path) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: min(len(content) - 1, round(share * len(content)))])

    return cut


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit of the first byte": flipped(0),
    "a bit in the middle": flipped(0.5),
    "a bit of the last byte": flipped(1),
    "empty": shorter(0),
    "cut in the middle": shorter(0.5),
    "without its last byte": shorter(1),
    "one byte more": longer,
    "deleted": Path.unlink,
    "a folder in its place": a_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_noticed_and_the_one_before_is_taken(
    home: Home, name: str, damage: str
) -> None:
    newest, before = home.folders()
    DAMAGES[damage](newest / name)
    notices: list[str] = []
    found = home.newest(notices.append)
    assert found is not None
    assert (found.folder, found.about.step) == (before, 2)
    what = "changed since it was written"
    if damage in ("deleted", "a folder in its place"):
        what = "missing"
        if name == MANIFEST:
            what = "missing" if damage == "deleted" else "must be a file of at most 1,048,576 bytes"
    assert notices == [f"checkpoint {newest} is damaged and passed over: {name}: {what}"]
    about = home.about()
    assert about is not None
    assert about.step == (2 if name == MANIFEST else 3), "which is told by the manifest alone"


@pytest.mark.parametrize(
    "name", ["more", ".hidden", "best/more", "best/lora_adapter/more.bin", "deep/er/more"]
)
def test_a_file_too_many_is_noticed(home: Home, name: str) -> None:
    newest, before = home.folders()
    (newest / name).parent.mkdir(parents=True, exist_ok=True)
    (newest / name).touch()
    notices: list[str] = []
    found = home.newest(notices.append)
    assert found is not None
    assert found.folder == before
    assert notices == [f"checkpoint {newest} is damaged and passed over: {name}: not a part of it"]


def test_a_manifest_of_another_checkpoint_is_noticed(home: Home) -> None:
    newest, before = home.folders()
    shutil.copy(before / MANIFEST, newest / MANIFEST)
    notices: list[str] = []
    assert home.newest(notices.append) is not None
    assert notices == [
        f"checkpoint {newest} is damaged and passed over: manifest.json: changed since it was written"
    ]


def test_where_all_are_damaged_there_is_none(home: Home) -> None:
    folders = home.folders()
    for folder in folders:
        (folder / "state.json").unlink()
    notices: list[str] = []
    assert home.newest(notices.append) is None
    assert notices == [
        f"checkpoint {folder} is damaged and passed over: state.json: missing" for folder in folders
    ]


def test_a_name_that_is_not_of_this_manifest_is_noticed(home: Home) -> None:
    newest, before = home.folders()
    newest.rename(home.folder / f"{newest.name[:-1]}{'0' if newest.name[-1] != '0' else '1'}")
    notices: list[str] = []
    found = home.newest(notices.append)
    assert found is not None
    assert found.folder == before
    assert len(notices) == 1
