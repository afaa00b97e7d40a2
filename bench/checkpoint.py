"""What checkpoints cost, ours beside those of transformers.Trainer and accelerate: python -m bench.checkpoint

--quick      one round, less than 3 minutes on 2 quiet cores; prints, and writes nothing
(no flag)    3 rounds; bench/results/ and docs/benchmarks.md are written anew

A training of MiniLM without saves and the same one with many; then single saves of ours and of the peers, and
of 40 million numbers. At the end the newest checkpoint of each is damaged, to see who notices.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench import saving, workloads
from bench.assignment import Recipe, Workload
from bench.machine import BUSY
from bench.ours import config
from bench.page import CHECKPOINTS, keep
from bench.peers.saving import Peers, damage_each, sizes
from bench.saving import Checkpoints, Loop, Saves
from bench.train import describe
from loratrack.checkpoints import Home
from loratrack.config import RunConfig
from loratrack.experiments.differences import surroundings
from loratrack.training import session
from loratrack.training.checkpoint import BEST, TENSORS, read, restore
from loratrack.training.cohort import Cohort, train
from loratrack.training.keeper import Facts, Keeper
from loratrack.training.log import ListLog
from loratrack.training.member import Member
from loratrack.training.session import Prepared

SMALL = Recipe(epochs=4)
LARGE = Recipe(rank=960, alpha=960, batch_size=4, lr=1e-4)
NEVER_MINUTES = 44_640.0
SAVES_IN_THE_LOOP = 25
SAVES, LARGE_SAVES = 8, 3
NEIGHBOURS = 4
"""Steps around a save that tell how long a step takes at that time; a busy machine changes its pace."""
SCORES = {"validation/loss": 1.0, "accuracy": 0.5, "f1": 0.5}


def main() -> int:
    arguments = _arguments()
    described = {
        **describe("minilm"),
        "accelerate": version("accelerate"),
        "threads": torch.get_num_threads(),
    }
    if described["load_at_start"] > BUSY:
        print(f"the machine is busy (load {described['load_at_start']}): do not trust these figures")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LORATRACK_CACHE"] = str(folder / "cache")
        workload = few_rows(folder)
        peers = Peers(workload, SMALL, folder)
        loops, rounds = [], []
        for number in range(1 if arguments.quick else arguments.rounds):
            loops.append(in_the_loop(ours(workload, SMALL), folder / "loop"))
            print(f"round {number + 1}: {loops[-1]}", flush=True)
            large = ours(workload, LARGE, targets="all-linear")
            rounds.append(
                {
                    "ours": saves(ours(workload, SMALL), folder / "ours", SAVES),
                    "trainer": peers.trainer_saves(),
                    "accelerate": peers.accelerate_saves(),
                    "large": saves(large, folder / "large", LARGE_SAVES),
                }
            )
            for key, each in rounds[-1].items():
                print(f"  {key}: {each}", flush=True)
        damages = {
            "ours": our_damages(ours(workload, SMALL), folder / "damaged"),
            "trainer": peers.trainer_damages(),
            "accelerate": peers.accelerate_damages(),
        }
    results = Checkpoints(machine=described, loops=tuple(loops), rounds=tuple(rounds), damages=damages)
    if not arguments.quick:
        keep(CHECKPOINTS, results)
    print(f"\n{saving.section_page(results)}")
    return 0


def few_rows(folder: Path, num_rows: int = 1200) -> Workload:
    """Rows of CLINC150 drawn at random, a quarter as many to validate on; intent alone."""
    files = {}
    for part, count in (("train", num_rows), ("dev", num_rows // 4)):
        table = pd.read_csv(workloads.CLINC / f"{part}.csv", dtype=str, keep_default_na=False)
        files[part] = str(folder / f"{part}.csv")
        table.sample(count, random_state=0).to_csv(files[part], index=False)
    columns = {"label": "label_intent"}
    return Workload(name="few", train=files["train"], validation=files["dev"], test=None, columns=columns)


def ours(workload: Workload, recipe: Recipe, targets: str | None = None) -> RunConfig:
    """With the threads given, so that none are measured; saved at the end of each epoch."""
    made = config(workload, recipe, "packed")
    threads = {"threads": torch.get_num_threads(), "checkpoint_minutes": None}
    lora = {} if targets is None else {"target_modules": targets}
    return made.model_copy(
        update={
            "baseline": False,
            "train": made.train.model_copy(update=threads),
            "model": made.model.model_copy(update={"lora": made.model.lora.model_copy(update=lora)}),
        }
    )


class TimedKeeper(Keeper):
    """Notes how long the loop was held in it, and when its thread wrote."""

    def __init__(self, cohort: Cohort) -> None:
        super().__init__(cohort)
        self.loop_seconds = 0.0
        self.left_at = time.perf_counter()
        self.written: list[tuple[float, float]] = []
        self._is_inside = False

    def between_steps(self, ended: Sequence[Member]) -> None:
        with self._timed():
            super().between_steps(ended)

    def save(self, members: Sequence[Member]) -> None:
        with self._timed():
            super().save(members)

    def wait(self) -> None:
        with self._timed():
            super().wait()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started, outer, self._is_inside = time.perf_counter(), self._is_inside, True
        try:
            yield
        finally:
            self._is_inside = outer
            if not outer:
                self.left_at = time.perf_counter()
                self.loop_seconds += self.left_at - started

    def _write(self, jobs: Any) -> None:
        started = time.perf_counter()
        super()._write(jobs)
        self.written.append((started, time.perf_counter()))


class Steps:
    """Sees when each step began and ended."""

    def __init__(self, keeper: TimedKeeper) -> None:
        self.keeper = keeper
        self.times: list[tuple[float, float]] = []

    def step(self, members: Sequence[Member]) -> None:
        self.times.append((self.keeper.left_at, time.perf_counter()))

    def epoch(self, member: Member) -> None: ...


def in_the_loop(wanted: RunConfig, folder: Path) -> Loop:
    """The same training twice: first without saves, then with many of them."""
    _, _, seconds = whole_training(wanted, NEVER_MINUTES, folder)
    keeper, steps, seconds_with = whole_training(wanted, seconds / SAVES_IN_THE_LOOP / 60, folder)
    num_saves = len(keeper.written)
    return Loop(
        seconds=seconds,
        seconds_with=seconds_with,
        saves=num_saves,
        lost_ms=1000 * keeper.loop_seconds / num_saves,
        slowed_ms=1000 * slowed_seconds(steps.times, keeper.written),
    )


def slowed_seconds(steps: Sequence[tuple[float, float]], written: Sequence[tuple[float, float]]) -> float:
    """By how much the steps beside one write are longer than those around it; a median of writes."""
    alone = [
        (began, ended) for began, ended in steps if not any(overlap((began, ended), each) for each in written)
    ]
    differences = []
    for write in written:
        beside = [ended - began for began, ended in steps if overlap((began, ended), write)]
        around = sorted(alone, key=lambda step: abs(step[0] - write[0]))[:NEIGHBOURS]
        if around:
            usual = statistics.median(ended - began for began, ended in around)
            differences.append(sum(beside) - len(beside) * usual)
    return statistics.median(differences) if differences else 0.0


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def whole_training(wanted: RunConfig, minutes: float, folder: Path) -> tuple[TimedKeeper, Steps, float]:
    """The seconds are those of the loop, with its evaluations."""
    wanted = wanted.model_copy(
        update={"train": wanted.train.model_copy(update={"checkpoint_minutes": minutes})}
    )
    with following(wanted, folder) as (prepared, _, keeper, _):
        keeper.loop_seconds = 0.0
        keeper.written.clear()
        steps, started = Steps(keeper), time.perf_counter()
        train(prepared.cohort, steps, keeper=keeper)
        return keeper, steps, time.perf_counter() - started


@contextmanager
def following(wanted: RunConfig, folder: Path) -> Iterator[tuple[Prepared, Member, TimedKeeper, Home]]:
    """A new member whose first checkpoint, which is empty, is written."""
    log = ListLog()
    prepared = session.set_up(wanted, log.notice)
    try:
        member = session.enter(prepared, wanted, log, folder / "work")
        home = Home(folder / "checkpoints")
        keeper = TimedKeeper(prepared.cohort)
        facts = Facts("run", home.claim(), "0" * 64, "0" * 64, "0" * 64, surroundings(), log.notices)
        keeper.follow(member, home, facts)
        keeper.wait()
        prepared.network.train()
        yield prepared, member, keeper, home
    finally:
        shutil.rmtree(folder)


def saves(wanted: RunConfig, folder: Path, count: int) -> Saves:
    """Saves with nothing beside them, of a member that has a best epoch; the last one restored."""
    with following(wanted, folder) as (prepared, member, keeper, home):
        step_and_evaluate(prepared.cohort, member)
        keeper.between_steps([])
        keeper.wait()
        times = [one_save(prepared.cohort, member, keeper) for _ in range(count + 1)]
        trained, _ = prepared.network.parameter_counts(member.name)
        other = session.enter(prepared, wanted, member.log, folder / "other", name="other")
        started = time.perf_counter()
        checkpoint = home.newest()
        assert checkpoint is not None, "it was written just now"
        restore(read(checkpoint.folder, checkpoint.about), other, prepared.cohort)
        back_ms = 1000 * (time.perf_counter() - started)
        return Saves(
            first_ms=times[0][0],
            loop_ms=statistics.median(loop_ms for loop_ms, _ in times[1:]),
            whole_ms=statistics.median(whole_ms for _, whole_ms in times[1:]),
            back_ms=back_ms,
            trained=trained,
            files=sizes(checkpoint.folder),
        )


def step_and_evaluate(cohort: Cohort, member: Member) -> None:
    """A step, after which these weights are the best so far."""
    cohort.step()
    member.evaluated(SCORES)
    cohort.network.train()


def one_save(cohort: Cohort, member: Member, keeper: TimedKeeper) -> tuple[float, float]:
    """Milliseconds that the loop waits, and until the checkpoint is there."""
    cohort.step()
    started = time.perf_counter()
    keeper.save([member])
    loop_ms = 1000 * (time.perf_counter() - started)
    keeper.wait()
    return loop_ms, 1000 * (time.perf_counter() - started)


def our_damages(wanted: RunConfig, folder: Path) -> dict[str, str]:
    """What comes of going on when the newest of two checkpoints is damaged, by the weights at the end."""
    with following(wanted, folder) as (prepared, member, keeper, home):
        step_and_evaluate(prepared.cohort, member)
        for _ in range(2):
            one_save(prepared.cohort, member, keeper)
        prepared.cohort.step()

        def go_on() -> str:
            notices: list[str] = []
            checkpoint = home.newest(notices.append)
            if checkpoint is None:
                return "refused"
            again = session.set_up(wanted, notices.append)
            saved = read(checkpoint.folder, checkpoint.about)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                other = session.enter(again, wanted, ListLog(), Path(work) / "best", saved=saved)
                again.network.train()
                while other.step < member.step:
                    again.cohort.step()
            same = torch.equal(other.flat_parameters.values, member.flat_parameters.values)
            end = "the same weights" if same else "other weights"
            is_newest = checkpoint.about.step == member.step - 1
            return end if is_newest else f"told, and from the checkpoint before it {end}"

        files = (TENSORS, f"{BEST}/lora_adapter/adapter_model.safetensors")
        return damage_each(home.folders()[0], files, go_on)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one round; writes nothing")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
