"""A member's training on disk, from which it goes on as if it had never stopped.

    state.json              step, epoch, history, the best so far, loss meter, threads, what ran it
    config_copy.yaml        its settings, with what was measured or chosen in the place of `auto`
    training.safetensors    what is trained, the optimizer's numbers, losses not yet read, random states
    best/                   the weights of the best evaluation so far, as `model/weights.py` writes them

    loop     | step | step | copy | step | step | step | step | copy |
    thread                 | write, hash, fsync, rename |     | write …

The loop waits for the copy alone. The order of the data and all dropout of LoRA are functions of the step
(`schedule.py`, `model/dropout.py`), so there is no state of theirs; a base that is trained whole drops by
torch's own random numbers, which are kept.

keeper = Keeper(cohort)
keeper.follow(member, home, facts)
train(cohort, watcher, stop=…, keeper=keeper)           # saves between two steps, and when it is stopped
restore(read(checkpoint.folder), member, cohort)        # after `session.enter`
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loratrack.checkpoints import About, Count, FencedError, Home, Positive, Words
from loratrack.config import files
from loratrack.disk import write_text
from loratrack.errors import UserError
from loratrack.places import CONFIG_COPY
from loratrack.training.member import Best, Member
from loratrack.training.memory import Memory

FORMAT: Literal[1] = 1
STATE, TENSORS, BEST = "state.json", "training.safetensors", "best"
MAX_STATE_BYTES = 2**28
MAX_THREADS = 4096
GIVE_UP_AFTER = 2
"""Saves in a row that failed: training on would only lose more."""
TRAINED, UNREAD = "trained", "unread_losses"
OPTIMIZER, RANDOM = "optimizer.", "random."


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, ser_json_inf_nan="constants")


class SavedBest(_Strict):
    epoch: Positive
    step: Count
    values: dict[str, float]
    since: Positive


class _Device(_Strict):
    name: Words


class _Gpu(_Strict):
    devices: list[_Device]


class _Environment(_Strict):
    """As much of it as is read again."""

    python: Words
    packages: dict[str, Words]
    cpu: dict[str, Words]
    gpu: _Gpu


class State(_Strict):
    """What `state.json` holds."""

    format: Literal[1]
    base_sha256: Words
    environment: _Environment
    """What the numbers come from: packages, processor, GPU, as in `env_info.json`."""
    notices: list[str]
    num_rows: Count
    step: Count
    epoch: Positive
    evaluated_step: Count
    epoch_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    is_trained: bool
    reason: str
    history: list[dict[str, float]]
    best: SavedBest | None
    meter_rows: Count
    meter_targets: Count
    meter_sums: list[float] | None
    unread_targets: list[Positive]
    optimizer: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], dict[str, float | int]]
    """The numbers in it that are no tensors, by parameter and name."""
    python_random: list[Any] | None
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)]
    threads_at_start: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None
    passes: Positive
    micro_batch_limit: Positive | None


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


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read."""

    folder: Path
    about: About
    state: State
    tensors: Mapping[str, Tensor]


class Shared(Protocol):
    """What the members of a cohort have in common, as far as it changes while they train."""

    notice: Callable[[str], None]
    memory: Memory
    threads_at_start: int | None


@dataclass
class _Followed:
    member: Member
    home: Home
    facts: Facts
    config: str
    """What `config_copy.yaml` holds."""
    buffers: dict[str, Tensor] = field(default_factory=dict)
    """What is copied in the loop lies here until it is written; used again, since new memory is slow."""
    saved_step: int = -1
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
            member, home, facts, files.dump(member.config), saved_step=member.step or -1
        )
        if member.is_training:
            self.save([member])

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
                if followed is None or (followed.saved_step == member.step and member.is_training):
                    continue
                self.wait()  # the buffers are free then
                followed.saved_step, followed.saved_at = member.step, time.monotonic()
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
            followed.saved_step = -1
        self.has_given_up = self._num_faults >= GIVE_UP_AFTER
        kept = next((home.about() for home in (each.home for each in self._followed.values())), None)
        would = "from the beginning" if kept is None or kept.step == 0 else f"from {kept}"
        then = "the training stops here" if self.has_given_up else "the training goes on"
        self.cohort.notice(
            f"checkpoint not saved: {_reason(faults[0])}; {then}, and can be resumed {would}; free some space"
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
                tensors, _ = _parts(member)
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
        tensors, numbers = _parts(member)
        if member.status != "training" or member.step == 0:
            tensors = {}  # the seed says how it begins, and `best` how it has ended
        copies = {name: _copy(value, name, followed.buffers) for name, value in tensors.items()}
        unread = member.meter.unread
        if unread:
            copies[UNREAD] = torch.stack([losses for losses, _ in unread]).cpu()
        if not member.network.use_lora:
            copies |= {f"{RANDOM}{name}": value for name, value in _random_states().items()}
        best = member.best
        state = State(
            format=FORMAT,
            base_sha256=facts.base_sha256,
            environment=_Environment.model_validate(facts.environment),
            notices=list(facts.notices),
            num_rows=member.num_rows,
            step=member.step,
            epoch=member.epoch,
            evaluated_step=member.evaluated_step,
            epoch_seconds=member.epoch_seconds(),
            is_trained=member.status == "finished",
            reason=member.reason,
            history=[dict(values) for values in member.history],
            best=None
            if best is None
            else SavedBest(epoch=best.epoch, step=best.step, values=dict(best.values), since=best.since),
            meter_rows=member.meter.rows,
            meter_targets=member.meter.targets,
            meter_sums=None if member.meter.sums is None else member.meter.sums.tolist(),
            unread_targets=[count for _, count in unread],
            optimizer=numbers,
            python_random=None if member.network.use_lora else _plain(random.getstate()),
            threads=torch.get_num_threads(),
            threads_at_start=cohort.threads_at_start,
            passes=cohort.memory.passes,
            micro_batch_limit=cohort.memory.micro_batch_limits.get(member.name),
        )
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
        )
        draft = followed.home.draft()
        return _Job(followed.home, draft, about, state, followed.config, copies)


def read(folder: Path, about: About) -> Saved:
    """A checkpoint whose files were found to be whole; UserError when they are not as we write them."""
    try:
        if (folder / STATE).stat().st_size > MAX_STATE_BYTES:
            raise UserError(f"{folder / STATE}: must have at most {MAX_STATE_BYTES:,} bytes; begin a new run")
        state = State.model_validate_json((folder / STATE).read_bytes())
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be read: {error}; begin a new run") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{folder / STATE}: {place}: {first['msg']}; as another version wrote it; begin a new run"
        ) from None
    if (state.step, state.is_trained) != (about.step, about.is_trained):
        raise UserError(f"{folder / STATE}: is at step {state.step}, its manifest at {about.step}")
    return Saved(folder, about, state, tensors)


def restore(saved: Saved, member: Member, cohort: Shared) -> None:
    """Put the member where it was. It is new, with the settings of the checkpoint.

    UserError where what was saved is not of such a run: nothing in it is taken at its word.
    """
    try:
        _restore(saved, member, cohort)
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{saved.folder}: does not fit this run: {why}; begin a new run") from error


def _restore(saved: Saved, member: Member, cohort: Shared) -> None:
    state, tensors, network = saved.state, saved.tensors, member.network
    _check_place(saved, member)
    if state.num_rows != member.num_rows:
        raise UserError(
            f"{saved.folder}: was trained on {state.num_rows:,} rows, and there are {member.num_rows:,} now;"
            " begin a new run"
        )
    if state.best is not None:
        member.best = Best(**dict(state.best))
        shutil.copytree(saved.folder / BEST, member.folder)
    member.history = [dict(values) for values in state.history]
    if state.is_trained:
        member.step, member.epoch = state.step, state.epoch
        member.status, member.reason = "finished", state.reason
        return
    if state.step > 0:
        _fill(member.flat_parameters.values, tensors, TRAINED, saved.folder)
        for name, value in network.encoder.named_buffers() if not network.use_lora else ():
            _fill(value, tensors, f"buffer.{name}", saved.folder)
        _restore_optimizer(member, state.optimizer, tensors, saved.folder)
    member.go_on_from(state.step, state.epoch, state.epoch_seconds)
    member.evaluated_step = state.evaluated_step
    meter = member.meter
    meter.rows, meter.targets = state.meter_rows, state.meter_targets
    meter.sums = None if state.meter_sums is None else np.array(state.meter_sums)
    losses = tensors[UNREAD].to(network.device) if UNREAD in tensors else ()
    meter.unread = list(zip(losses, state.unread_targets, strict=True))
    cohort.threads_at_start = cohort.threads_at_start or state.threads_at_start
    cohort.memory.passes = max(cohort.memory.passes, state.passes)
    if state.micro_batch_limit is not None:
        cohort.memory.micro_batch_limits[member.name] = state.micro_batch_limit
    if not network.use_lora:
        _restore_random(state, tensors)


def _check_place(saved: Saved, member: Member) -> None:
    """ValueError where a training with these settings is never at such a place."""
    state = saved.state
    epoch_begin = (state.epoch - 1) * member.epoch_steps
    if not epoch_begin <= state.step <= min(epoch_begin + member.epoch_steps, member.total_steps):
        raise ValueError(f"step {state.step:,} of {member.total_steps:,} in epoch {state.epoch:,}")
    if len(state.history) - (state.epoch - 1) not in (0, int(state.is_trained)):
        raise ValueError(f"{len(state.history):,} epochs have ended, in epoch {state.epoch:,}")
    if state.is_trained and state.best is None:
        raise ValueError("it is trained and has no best epoch")
    names = set(member.config.metric_names)
    for scores in [*state.history, *([] if state.best is None else [state.best.values])]:
        if missing := names - scores.keys():
            raise ValueError(f"an epoch has no {sorted(missing)[0]}")
    parts = len(member.config.loss_weights)
    losses = saved.tensors.get(UNREAD)
    if state.meter_sums is not None and (len(state.meter_sums) != parts or not state.meter_targets):
        raise ValueError(f"{len(state.meter_sums)} losses, of {parts} tasks")
    if losses is not None and losses.shape != (len(state.unread_targets), parts):
        raise ValueError(f"{UNREAD} of shape {tuple(losses.shape)}")


def _parts(member: Member) -> tuple[dict[str, Tensor], dict[str, dict[str, float | int]]]:
    """The tensors that each step changes, and the optimizer's other numbers by parameter and name."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, float | int]] = {}
    for index, values in member.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{index}.{name}"] = value
            elif value is not None:
                numbers.setdefault(str(index), {})[name] = value
    tensors[TRAINED] = member.flat_parameters.values
    if not member.network.use_lora:
        tensors |= {f"buffer.{name}": value for name, value in member.network.encoder.named_buffers()}
    return tensors, numbers


def _restore_optimizer(
    member: Member,
    numbers: Mapping[str, Mapping[str, float | int]],
    tensors: Mapping[str, Tensor],
    folder: Path,
) -> None:
    own = member.optimizer.state_dict()
    states: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in numbers.items()}
    for key, value in tensors.items():
        if key.startswith(OPTIMIZER):
            index, _, name = key.removeprefix(OPTIMIZER).partition(".")
            states.setdefault(int(index), {})[name] = value.clone()
    parameters = [each for group in member.optimizer.param_groups for each in group["params"]]
    if set(states) != set(range(len(parameters))):
        raise ValueError(f"{len(states)} states of an optimizer that has {len(parameters)} parameters")
    for number, values in states.items():
        own_shape = parameters[number].shape  # Adafactor keeps a mean for each row and each column
        fitting = ((), own_shape, own_shape[:-1], (*own_shape[:-2], *own_shape[-1:]))
        for name, value in values.items():
            if isinstance(value, Tensor) and tuple(value.shape) not in fitting:
                raise ValueError(f"{OPTIMIZER}{number}.{name} of shape {tuple(value.shape)}")
    member.optimizer.load_state_dict({"state": states, "param_groups": own["param_groups"]})


def _random_states() -> dict[str, Tensor]:
    """torch's and NumPy's, which a base that is trained whole may draw from."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numbers = np.concatenate([np.asarray(keys, dtype=np.float64), [position, has_gauss, gauss]])
    states = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(numbers)}
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return states | {f"cuda.{number}": value for number, value in enumerate(devices)}


def _restore_random(state: State, tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors[f"{RANDOM}torch"])
    *keys, position, has_gauss, gauss = tensors[f"{RANDOM}numpy"].tolist()
    numbers = np.array(keys, dtype=np.uint32)
    np.random.set_state(("MT19937", numbers, int(position), int(has_gauss), gauss))
    for name, value in tensors.items():
        if name.startswith(f"{RANDOM}cuda."):
            torch.cuda.set_rng_state(value, int(name.rpartition(".")[2]))
    if state.python_random is not None:
        version, internal, gauss_next = state.python_random
        random.setstate((version, tuple(internal), gauss_next))


def _plain(state: tuple[Any, ...]) -> list[Any]:
    version, internal, gauss_next = state
    return [version, list(internal), gauss_next]


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


def _fill(own: Tensor, tensors: Mapping[str, Tensor], name: str, folder: Path) -> None:
    saved = tensors.get(name)
    if saved is None or saved.shape != own.shape or saved.dtype != own.dtype:
        got = "nothing" if saved is None else f"{tuple(saved.shape)} in {saved.dtype}"
        raise UserError(
            f"{folder}: {name} must be {tuple(own.shape)} in {own.dtype}, got {got}; begin a new run"
        )
    with torch.no_grad():
        own.copy_(saved)


def _link(folder: Path, target: Path) -> None:
    """The same files under another name, which takes no space; they are replaced and never changed."""
    try:
        shutil.copytree(folder, target, copy_function=os.link)
    except (OSError, shutil.Error):  # a disk without links
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)


def _remove_drafts(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        shutil.rmtree(job.draft, ignore_errors=True)


def _reason(fault: Exception) -> str:
    if isinstance(fault, shutil.Error):  # of several files, as (from, to, why)
        return str(fault.args[0][0][2])
    return getattr(fault, "strerror", None) or str(fault)
