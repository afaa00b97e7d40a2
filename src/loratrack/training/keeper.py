"""When the members of a cohort are saved, and by whom: the loop copies, a thread writes.

    loop     | step | step | copy | step | step | step | step | copy |
    thread                 | write, hash, fsync, rename |     | write …

keeper = Keeper(cohort)
keeper.follow(member, home, facts)
train(cohort, watcher, stop=…, keeper=keeper)           # saves between two steps, and when it is stopped
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from loratrack.checkpoints import About, FencedError, Home
from loratrack.config import files
from loratrack.disk import write_text
from loratrack.places import CONFIG_COPY
from loratrack.training.checkpoint import (
    BEST,
    STATE,
    TENSORS,
    Shared,
    State,
    lasting_tensors,
    passing_tensors,
    state_of,
)
from loratrack.training.member import Member

SAFETENSORS = ".safetensors"
GIVE_UP_AFTER = 2
"""Saves in a row that failed: training on would only lose more."""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says of its run, and what does not change while it trains."""

    run_id: str
    attempt: int
    config_sha256: str
    data_sha256: str
    base_sha256: str
    environment: Mapping[str, Any]
    notices: Sequence[str]
    """Grows while the run goes on."""
    sweep: str = ""
    """The sweep that the run is a part of."""


@dataclass
class _Followed:
    member: Member
    home: Home
    facts: Facts
    config: str
    """What `config_copy.yaml` holds."""
    saved: tuple[int, ...] = ()
    """Where it was when it was last saved: its step, and what was done at it."""
    buffers: dict[str, Tensor] = field(default_factory=dict)
    """What is copied in the loop lies here until it is written; used again, since new memory is slow."""
    saved_at: float = field(default_factory=time.monotonic)
    """When it was last tried."""


@dataclass(frozen=True)
class _Job:
    """One checkpoint to be written."""

    home: Home
    draft: Path
    about: About
    state: State
    config: str
    tensors: Mapping[str, Tensor]


class Keeper:
    """Saves the members of a cohort: when it is time, and when they are asked to stop."""

    def __init__(self, cohort: Shared) -> None:
        self.cohort = cohort
        self.has_given_up = False
        """The disk takes no checkpoint: to stop now loses less than to stop later."""
        self._followed: dict[str, _Followed] = {}
        self._thread: threading.Thread | None = None
        self._faults: list[Exception] = []
        self._num_faults = 0

    def follow(self, member: Member, home: Home, facts: Facts) -> None:
        """From now on this member is saved; a new one at once, so that it goes on with these settings."""
        self._followed[member.name] = _Followed(
            member, home, facts, files.dump(member.config), _place(member) if member.step else ()
        )
        if member.is_training:
            self.save([member])
            self.wait()

    def leave(self, member: Member) -> None:
        """Nothing is saved of this member any more."""
        if member.name in self._followed:
            self.wait()
            del self._followed[member.name]

    def between_steps(self, ended: Sequence[Member]) -> None:
        """Save those for whom it is time. `ended`: whose epoch has just ended."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()
        followed = [each for each in self._followed.values() if each.member.is_training]
        members = [each.member for each in followed]
        minutes = [member.config.train.checkpoint_minutes for member in members]
        shortest = min((each for each in minutes if each is not None), default=None)
        if shortest is not None:
            oldest = min(each.saved_at for each in followed)  # others may have entered and been saved since
            seconds = time.monotonic() - oldest
            if seconds >= 60 * shortest:
                self.save(members)
                return
        if shortest is None or seconds >= 60 * shortest / 2:  # a short run needs no room
            self._make_room()
        self.save(
            [each for each in members if each in ended and each.config.train.checkpoint_minutes is None]
        )

    def save(self, members: Sequence[Member]) -> None:
        """A checkpoint of each, copied now and written by a thread. Call it between two steps."""
        jobs: list[_Job] = []
        try:
            for member in members:
                followed = self._followed.get(member.name)
                if followed is None or (followed.saved == _place(member) and member.is_training):
                    continue
                self.wait()  # the buffers are free then
                followed.saved, followed.saved_at = _place(member), time.monotonic()
                followed.home.check_attempt(followed.facts.attempt)
                jobs.append(self._copied(followed))
                if member.best is not None:
                    _link(member.folder, jobs[-1].draft / BEST)
        except OSError as error:  # then none of them is saved: they go on from the same step
            _remove_drafts(jobs)
            self._faults.append(error)
            self.wait()
            return
        except FencedError:
            _remove_drafts(jobs)
            raise
        if jobs:
            self._thread = threading.Thread(target=self._write, args=(jobs,), name="checkpoint")
            self._thread.start()

    def wait(self) -> None:
        """Until what was copied is on the disk, and say so when it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        faults, self._faults = self._faults, []
        for fault in faults:
            if not isinstance(fault, OSError):
                raise fault
        if not faults:
            return
        self._num_faults += 1
        for followed in self._followed.values():
            followed.saved = ()
        self.has_given_up = self._num_faults >= GIVE_UP_AFTER
        kept = next((home.about() for home in (each.home for each in self._followed.values())), None)
        place = "the beginning" if kept is None or kept.step == 0 else str(kept)
        then = "stops here, and can" if self.has_given_up else "can"
        self.cohort.notice(
            f"checkpoint not saved: {_reason(faults[0])}; the training {then} be resumed from {place};"
            " free some space"
        )

    def _make_room(self) -> None:
        """Buffers for the first save, touched by a thread: the first write to new memory takes several times
        as long as all later ones, and the loop would wait for it.
        """
        if self._thread is not None:
            return
        new: list[Tensor] = []
        for followed in self._followed.values():
            member = followed.member
            if member.is_training and member.step > 0 and not followed.buffers:
                tensors = lasting_tensors(member)
                followed.buffers = {name: _buffer(value) for name, value in tensors.items()}
                new += followed.buffers.values()
        if new:
            self._thread = threading.Thread(target=_touch, args=(new,), name="checkpoint")
            self._thread.start()

    def _write(self, jobs: Sequence[_Job]) -> None:
        """All are written before the first is visible: members of a cohort go on from the same step."""
        sealed = []
        try:
            for job in jobs:
                write_text(job.draft / STATE, job.state.model_dump_json())
                write_text(job.draft / CONFIG_COPY, job.config)
                save_file(dict(job.tensors), job.draft / TENSORS)
                _open_to_readers(job.draft)
                sealed.append((job.home, job.home.seal(job.draft, job.about)))
            for home, each in sealed:
                home.publish(each)
            self._num_faults = 0
        except SafetensorError as error:  # its own way to tell that the disk is full
            self._faults.append(OSError(str(error)))
        except Exception as error:  # noqa: BLE001  `wait` raises it in the loop, or tells of it
            self._faults.append(error)
        finally:
            _remove_drafts(jobs)

    def _copied(self, followed: _Followed) -> _Job:
        """What the thread needs; the loop may change everything else while it writes."""
        member, facts, cohort = followed.member, followed.facts, self.cohort
        tensors = lasting_tensors(member)
        if member.status != "training" or member.step == 0:
            tensors = {}  # the seed says how it begins, and `best` how it has ended
        copies = {name: _copy(value, name, followed.buffers) for name, value in tensors.items()}
        copies |= passing_tensors(member)
        state = state_of(member, cohort, facts.base_sha256, facts.environment, facts.notices)
        about = About(
            run_id=facts.run_id,
            exp_id=member.config.exp_id,
            config_sha256=facts.config_sha256,
            data_sha256=facts.data_sha256,
            attempt=facts.attempt,
            step=member.step,
            epoch_steps=member.epoch_steps,
            epochs=member.epochs,
            is_trained=member.status == "finished",
            sweep=facts.sweep,
        )
        draft = followed.home.draft()
        return _Job(followed.home, draft, about, state, followed.config, copies)


def _place(member: Member) -> tuple[int, ...]:
    return member.step, member.epoch, member.evaluated_step


def _copy(value: Tensor, name: str, buffers: dict[str, Tensor]) -> Tensor:
    buffer = buffers.get(name)
    if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
        buffer = buffers[name] = _buffer(value)
    buffer.copy_(value.detach())
    return buffer


def _buffer(value: Tensor) -> Tensor:
    return torch.empty_like(value, device="cpu", requires_grad=False)


def _touch(buffers: Sequence[Tensor]) -> None:
    for buffer in buffers:
        buffer.zero_()


def _link(folder: Path, target: Path) -> None:
    """The same files under another name, which takes no space; they are replaced and never changed."""
    try:
        shutil.copytree(folder, target, copy_function=os.link)
    except (OSError, shutil.Error):  # a disk without links
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)


def _open_to_readers(draft: Path) -> None:
    """safetensors makes its files for their owner alone, whatever the umask says."""
    mode = (draft / STATE).stat().st_mode
    for file in draft.rglob(f"*{SAFETENSORS}"):
        file.chmod(mode)


def _remove_drafts(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        shutil.rmtree(job.draft, ignore_errors=True)


def _reason(fault: Exception) -> str:
    if isinstance(fault, shutil.Error):  # of several files, as (from, to, why)
        return str(fault.args[0][0][2])
    return getattr(fault, "strerror", None) or str(fault)
