"""A member's training on disk, from which it goes on as if it had never stopped.

    state.json              step, epoch, history, the best so far, loss meter, threads, what ran it
    config_copy.yaml        its settings, with what was measured or chosen in the place of `auto`
    training.safetensors    what is trained, the optimizer's numbers, losses not yet read, random states
    best/                   the weights of the best evaluation so far, as `model/weights.py` writes them

The order of the data and all dropout of LoRA are functions of the step (`schedule.py`, `model/dropout.py`),
so there is no state of theirs; a base that is trained whole drops by torch's own random numbers, which are
kept. `keeper.py` writes these files.

saved = read(checkpoint.folder, checkpoint.about)
restore(saved, member, cohort)                          # a new member, with the settings that were saved
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from loratrack.checkpoints import About, Count, Positive, Words
from loratrack.errors import UserError
from loratrack.training.member import Best, Member
from loratrack.training.memory import Memory

FORMAT: Literal[1] = 1
STATE, TENSORS, BEST = "state.json", "training.safetensors", "best"
MAX_STATE_BYTES = 2**28
MAX_THREADS = 4096
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
    if state.num_rows != member.num_rows:
        raise UserError(
            f"{saved.folder}: was trained on {state.num_rows:,} rows, and there are {member.num_rows:,} now;"
            " put the data back, or begin a new run"
        )
    _check_place(saved, member)
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


def lasting_tensors(member: Member) -> dict[str, Tensor]:
    """What each step changes and the next one needs, in its own place."""
    tensors = {
        f"{OPTIMIZER}{index}.{name}": value
        for index, values in member.optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    tensors[TRAINED] = member.flat_parameters.values
    if not member.network.use_lora:
        tensors |= {f"buffer.{name}": value for name, value in member.network.encoder.named_buffers()}
    return tensors


def passing_tensors(member: Member) -> dict[str, Tensor]:
    """Losses that were not read yet, and random states where any exist; new ones each time."""
    unread = member.meter.unread
    tensors = {UNREAD: torch.stack([losses for losses, _ in unread]).cpu()} if unread else {}
    if not member.network.use_lora:
        tensors |= {f"{RANDOM}{name}": value for name, value in _random_states().items()}
    return tensors


def state_of(
    member: Member, shared: Shared, base_sha256: str, environment: Mapping[str, Any], notices: Sequence[str]
) -> State:
    """All of the member that is no tensor."""
    best = member.best
    return State(
        format=FORMAT,
        base_sha256=base_sha256,
        environment=_Environment.model_validate(environment),
        notices=[text.encode("utf-8", "replace").decode() for text in notices],  # a path may be no text
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
        unread_targets=[count for _, count in member.meter.unread],
        optimizer=_optimizer_numbers(member),
        python_random=None if member.network.use_lora else _plain(random.getstate()),
        threads=torch.get_num_threads(),
        threads_at_start=shared.threads_at_start,
        passes=shared.memory.passes,
        micro_batch_limit=shared.memory.micro_batch_limits.get(member.name),
    )


def _optimizer_numbers(member: Member) -> dict[str, dict[str, float | int]]:
    """Those that are no tensors, by parameter and name."""
    numbers: dict[str, dict[str, float | int]] = {}
    for index, values in member.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None and not isinstance(value, Tensor):
                numbers.setdefault(str(index), {})[name] = value
    return numbers


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


def _fill(own: Tensor, tensors: Mapping[str, Tensor], name: str, folder: Path) -> None:
    saved = tensors.get(name)
    if saved is None or saved.shape != own.shape or saved.dtype != own.dtype:
        got = "nothing" if saved is None else f"{tuple(saved.shape)} in {saved.dtype}"
        raise UserError(
            f"{folder}: {name} must be {tuple(own.shape)} in {own.dtype}, got {got}; begin a new run"
        )
    with torch.no_grad():
        own.copy_(saved)
