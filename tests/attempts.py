"""A training in several attempts: what each saves, the next one begins with, in a new network and cohort.

training = Training(lambda: new_cohort([]), seat, [config])
expected = training.ended(tmp_path / "undisturbed")
found = training.ended(tmp_path / "stopped", Ending(look=3), Ending(evaluation=2))
check_same(found, expected)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loratrack.checkpoints import Home
from loratrack.config import RunConfig, load
from loratrack.disk import sha256_of
from loratrack.errors import StoppedError
from loratrack.experiments.differences import surroundings
from loratrack.experiments.watcher import Nobody
from loratrack.places import CONFIG_COPY
from loratrack.training.checkpoint import Saved, read, restore
from loratrack.training.cohort import NEVER, Cohort, Stop, train
from loratrack.training.keeper import Facts, Keeper
from loratrack.training.log import ListLog
from loratrack.training.member import Member

Values = dict[str, float]


class KilledError(BaseException):
    """The process is gone: nothing is saved any more."""


class Ending:
    """Ends an attempt at its n-th look between steps, or when its n-th evaluation is made and not told."""

    def __init__(
        self, *, look: int = 0, evaluation: int = 0, how: type[BaseException] = StoppedError
    ) -> None:
        self.look, self.evaluation, self.how = look, evaluation, how
        self.looks = self.evaluations = 0

    def __bool__(self) -> bool:
        self.looks += 1
        if self.looks == self.look:
            raise self.how
        return False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        yield
        self.evaluations += 1
        if self.evaluations == self.evaluation:
            raise self.how


@dataclass
class Ended:
    """What a member came to. Times are left out: they differ by nature."""

    step: int
    epoch: int
    status: str
    reason: str
    history: list[Values]
    best: dict[str, Any] | None
    best_files: dict[str, str]
    """sha256 by name."""
    weights: dict[str, Tensor]
    """Empty where it had ended before the last attempt."""
    told: list[tuple[int, Values]]
    """To the log, in all attempts."""
    member: Member


@dataclass(frozen=True)
class Training:
    new_cohort: Callable[[], Cohort]
    seat: Callable[[Cohort, RunConfig, Path], Member]
    configs: Sequence[RunConfig]

    def ended(self, folder: Path, *endings: Stop) -> dict[str, Ended]:
        """By exp_id. Each ending ends one attempt; then comes one that goes on to the end."""
        found: dict[str, Ended] = {}
        for stop in (*endings, NEVER):
            for name, ended in self.attempt(folder, stop).items():
                before = found.get(name)
                if before is not None:
                    ended.told = [*before.told, *ended.told]
                    ended.weights = ended.weights or before.weights
                found[name] = ended
        return found

    def attempt(self, folder: Path, stop: Stop = NEVER) -> dict[str, Ended]:
        """From what was saved in this folder, or from the beginning."""
        cohort, folders = self.new_cohort(), iter(range(len(self.configs)))
        keeper = Keeper(cohort)
        members = []
        for config in self.configs:
            home = Home(folder / config.exp_id)
            number, saved = home.claim(), newest(home)
            work = folder / f"work-{number}-{next(folders)}"
            members.append(entered(cohort, self.seat, config, work, saved))
            keeper.follow(members[-1], home, facts(number))
        trained = [member for member in members if member.is_training]

        def after_epoch(member: Member) -> None:
            if not member.is_training:
                keeper.save([member])

        with suppress(StoppedError, KilledError):
            train(cohort, Nobody(), stop=stop, keeper=keeper, after_epoch=after_epoch)
        return {member.config.exp_id: outcome(member, with_weights=member in trained) for member in members}


def facts(attempt: int = 1) -> Facts:
    return Facts("0" * 32, attempt, "config", "data", "base", surroundings(), ["said before"])


def newest(home: Home) -> Saved | None:
    """What was saved last, all of it whole."""
    damaged: list[str] = []
    checkpoint = home.newest(damaged.append)
    assert not damaged
    return None if checkpoint is None else read(checkpoint.folder, checkpoint.about)


def entered(
    cohort: Cohort,
    seat: Callable[[Cohort, RunConfig, Path], Member],
    config: RunConfig,
    folder: Path,
    saved: Saved | None,
) -> Member:
    """A member as `session.enter` makes it; a saved one in a process whose random numbers are others."""
    if saved is None:
        member = seat(cohort, config, folder)
        seed_all(config.train.seed)
        return member
    member = seat(cohort, load(saved.folder / CONFIG_COPY), folder)
    seed_all(config.train.seed + 1000)
    restore(saved, member, cohort)
    return member


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def outcome(member: Member, *, with_weights: bool = True) -> Ended:
    assert isinstance(member.log, ListLog)
    paths = sorted(path for path in member.folder.rglob("*") if path.is_file())
    best = None if member.best is None else asdict(member.best)
    if best is not None:
        best["values"] = timeless(best["values"])
    return Ended(
        step=member.step,
        epoch=member.epoch,
        status=member.status,
        reason=member.reason,
        history=[timeless(values) for values in member.history],
        best=best,
        best_files={path.relative_to(member.folder).as_posix(): sha256_of(path) for path in paths},
        weights=weights_of(member) if with_weights else {},
        told=[(step, timeless(values)) for step, values in member.log.calls],
        member=member,
    )


def weights_of(member: Member) -> dict[str, Tensor]:
    """All that is trained, and the buffers of a base that is trained whole."""
    named: dict[str, Tensor] = dict(member.network.adapter_parameters(member.name))
    named |= member.network.heads[member.name].by_task()
    if not member.network.use_lora:
        named |= {f"buffer {name}": value for name, value in member.network.encoder.named_buffers()}
    return {name: value.detach().cpu().clone() for name, value in named.items()}


def timeless(values: Any) -> Values:
    return {name: value for name, value in values.items() if not name.startswith("system/")}


def check_same(found: dict[str, Ended], expected: dict[str, Ended]) -> None:
    """To the last bit. What was told again was told in the same words."""
    assert found.keys() == expected.keys()
    for name, one in found.items():
        other = expected[name]
        assert one.history == other.history, name
        assert one.best == other.best, name
        assert (one.step, one.epoch, one.status, one.reason) == (
            other.step,
            other.epoch,
            other.status,
            other.reason,
        )
        assert one.best_files == other.best_files, name
        assert one.best_files, "a member that has ended has a best epoch"
        assert one.weights.keys() == other.weights.keys() != set()
        different = [key for key, value in one.weights.items() if not torch.equal(value, other.weights[key])]
        assert not different, name
        assert sorted_calls(one) == sorted_calls(other), name


def sorted_calls(ended: Ended) -> list[tuple[int, list[tuple[str, float]]]]:
    """Each once."""
    calls: list[tuple[int, list[tuple[str, float]]]] = []
    for step, values in ended.told:
        call = (step, sorted(values.items()))
        if call not in calls:
            calls.append(call)
    return sorted(calls)
