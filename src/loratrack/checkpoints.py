"""The checkpoints of a run on disk: each is whole or not there, and says what every one of its files must be.

    checkpoints/RUN/
      attempt-1  attempt-2                      who trained it; the newest may write
      attempt-2-step-00000120-5c9d0b3ea1f28b07/ the name ends with the beginning of its manifest's sha256
        manifest.json                           how far the run is, and the sha256 of all files; written last
        …                                       files of `training/checkpoint.py`

home = Home(folder)
attempt = home.claim()                  # 2; whoever holds 1 may not write any more
sealed = home.seal(draft, about)        # on the disk, with its manifest
home.publish(sealed)                    # renamed; of the older ones the newest stays too
home.newest(notice)                     # the newest whole one, or None
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loratrack.disk import draft_of, flush, sha256_of, write_text
from loratrack.errors import UserError

FORMAT: Literal[1] = 1
MANIFEST = "manifest.json"
KEPT = 2
"""The newest, and the one before it in case the newest is damaged."""
KEPT_DAYS = 14
"""How long those of a run stay that nobody goes on with."""
HASH_CHARACTERS = 16
CHECKPOINT = re.compile(rf"attempt-(\d+)-step-(\d+)-([0-9a-f]{{{HASH_CHARACTERS}}})")
ATTEMPT = re.compile(r"attempt-(\d+)")
MAX_MANIFEST_BYTES = 2**20
MOST = 10**12
"""Of anything that is counted here; a checkpoint is not taken at its word."""
Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Words = Annotated[str, Field(pattern=r"^\PC{0,200}$")]
"""What is shown on a screen."""


class About(BaseModel):
    """What a checkpoint is of, for those who do not open its tensors."""

    model_config = ConfigDict(frozen=True, strict=True)

    run_id: Words
    exp_id: Words
    config_sha256: Words
    """Of the settings that the run was started with."""
    data_sha256: Words
    attempt: Positive
    step: Count
    epoch_steps: Positive
    epochs: Positive
    is_trained: bool = False
    """The training is over; the run's files were not handed over yet."""
    sweep: Words = ""
    """The sweep that it is a part of, and that alone goes on with it."""

    def __str__(self) -> str:
        """`epoch 2.4 of 8`"""
        return f"epoch {self.step / self.epoch_steps:.1f} of {self.epochs}"


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    format: Literal[1]
    about: About
    files: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    about: About


@dataclass(frozen=True)
class Sealed:
    """A checkpoint that is written and not yet visible."""

    draft: Path
    folder: Path
    about: About


class FencedError(UserError):
    """Another attempt has taken the run over."""


class Home:
    """Where one run keeps its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self) -> int:
        """A new attempt at the run: its number, which nobody else has. What others left half-made goes."""
        try:
            return self._claimed()
        except OSError as error:
            raise UserError(
                f"{self.folder}: checkpoints must be writable here, got {error.strerror};"
                " free some space, or mend the rights of the folder"
            ) from error

    def _claimed(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        for draft in self.folder.glob(".*"):
            shutil.rmtree(draft, ignore_errors=True)
        for number in count(self.attempt() + 1):
            try:
                (self.folder / f"attempt-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return number
        raise AssertionError("numbers do not end")

    def attempt(self) -> int:
        """The newest attempt; 0 before the first."""
        found = [ATTEMPT.fullmatch(path.name) for path in self._paths()]
        return max((int(match[1]) for match in found if match), default=0)

    def check_attempt(self, attempt: int) -> None:
        """FencedError when a newer one has taken over, or the run is finished and everything is gone."""
        newest = self.attempt()
        if newest != attempt:
            by = (
                f"attempt {newest} has taken this run over"
                if newest
                else "another process has ended this run"
            )
            raise FencedError(f"{self.folder}: {by}, so attempt {attempt} must not go on")

    def draft(self) -> Path:
        """A new hidden folder for the files of a checkpoint."""
        draft = draft_of(self.folder / "checkpoint")
        draft.mkdir()
        return draft

    def seal(self, draft: Path, about: About) -> Sealed:
        """All files of the draft on the disk, and its manifest. Nothing is visible yet."""
        paths = sorted(draft.rglob("*"))
        for path in paths:
            flush(path)
        files = [path for path in paths if path.is_file()]
        hashes = {path.relative_to(draft).as_posix(): sha256_of(path) for path in files}
        text = _Manifest(format=FORMAT, about=about, files=hashes).model_dump_json(indent=1)
        write_text(draft / MANIFEST, text, is_durable=True)
        own = hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARACTERS]
        name = f"attempt-{about.attempt}-step-{about.step:08}-{own}"
        return Sealed(draft, self.folder / name, about)

    def publish(self, sealed: Sealed) -> None:
        """Make it the newest checkpoint. OSError: the older ones are as before."""
        self.check_attempt(sealed.about.attempt)
        sealed.draft.rename(sealed.folder)
        flush(self.folder)
        for old in self.folders()[KEPT:]:
            remove(old)

    def folders(self) -> list[Path]:
        """All visible checkpoints, the newest first."""
        found = [(match, path) for path in self._paths() if (match := CHECKPOINT.fullmatch(path.name))]
        ages = {path: (int(match[1]), int(match[2]), _moment(path)) for match, path in found}
        return sorted(ages, key=lambda path: ages[path], reverse=True)

    def newest(self, notice: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
        """The newest one whose files are all as they were written; `notice` of what is passed over."""
        for folder in self.folders():
            try:
                return Checkpoint(folder, _checked(folder).about)
            except ValueError as error:
                notice(f"checkpoint {folder} is damaged and passed over: {error}")
        return None

    def about(self) -> About | None:
        """How far the run is, by the newest manifest that is whole; other files are not looked at."""
        for folder in self.folders():
            try:
                return _manifest(folder).about
            except ValueError:
                continue
        return None

    def age_seconds(self) -> float:
        """Since anything was written here."""
        return time.time() - max(_moment(path) for path in (self.folder, *self._paths()))

    def remove(self) -> None:
        """Nothing of the run will be needed any more."""
        remove(self.folder)

    def _paths(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []


def home_of(store: Path, run_id: str) -> Home:
    """The checkpoints of a run lie in the folder of the store that its process writes to."""
    return Home(store / "checkpoints" / run_id)


def homes(store: Path) -> dict[str, Home]:
    """All that there are, by run."""
    folder = store / "checkpoints"
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.name: Home(path) for path in sorted(paths) if not path.name.startswith(".")}


def remove(folder: Path) -> None:
    """Renamed away first: half a checkpoint is never seen."""
    gone = draft_of(folder)
    try:
        folder.rename(gone)
    except FileNotFoundError:  # another process was quicker
        return
    shutil.rmtree(gone, ignore_errors=True)


def _moment(path: Path) -> float:
    """When it was last changed; 0 when it is gone by now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _manifest(folder: Path) -> _Manifest:
    """ValueError says what is wrong with it."""
    match, file = CHECKPOINT.fullmatch(folder.name), folder / MANIFEST
    try:
        if not os.path.lexists(file):
            raise ValueError(f"{MANIFEST}: missing")
        if not file.is_file() or file.is_symlink() or file.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"{MANIFEST}: must be a file of at most {MAX_MANIFEST_BYTES:,} bytes")
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{MANIFEST}: {error.strerror}") from None
    if match is None or not hashlib.sha256(content).hexdigest().startswith(match[3]):
        raise ValueError(f"{MANIFEST}: changed since it was written")
    try:
        return _Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _checked(folder: Path) -> _Manifest:
    """The manifest, once all files were found to be as it says; ValueError names the first that is not."""
    manifest = _manifest(folder)
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    if link := next((name for name, path in paths.items() if path.is_symlink()), None):
        raise ValueError(f"{link}: a link, which may lead out of it")
    found = {name: path for name, path in paths.items() if not path.is_dir()}
    del found[MANIFEST]
    for name in sorted(found.keys() | manifest.files.keys()):
        if name not in manifest.files:
            raise ValueError(f"{name}: not a part of it")
        if name not in found or not found[name].is_file():
            raise ValueError(f"{name}: missing")
        try:
            own = sha256_of(found[name])
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}") from None
        if own != manifest.files[name]:
            raise ValueError(f"{name}: changed since it was written")
    return manifest
