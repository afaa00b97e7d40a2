"""Ours, one process: python -m bench.ours ASSIGNMENT. Its last line is the answer, in JSON."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.assignment import Answer, Assignment, Recipe, Workload, total
from bench.clock import Clock, wait_for_all
from loratrack.bases.precision import precision_name
from loratrack.config import RunConfig
from loratrack.data import Encoded
from loratrack.errors import StoppedError
from loratrack.training import session
from loratrack.training.cohort import StopWhen, train
from loratrack.training.log import ListLog
from loratrack.training.member import Member
from loratrack.training.schedule import epoch_batches


def main() -> None:
    assignment = Assignment.model_validate_json(sys.argv[1])
    recipes = assignment.recipes
    groups = [recipes] if assignment.together else [(recipe,) for recipe in recipes]
    answers = [measure(assignment, group) for group in groups]
    print(total(answers).model_dump_json())


def measure(assignment: Assignment, recipes: Sequence[Recipe]) -> Answer:
    """Train the recipes as one cohort."""
    log = ListLog()
    clock = Clock(
        assignment.warm_up_steps,
        assignment.steps,
        at_start=lambda: wait_for_all(assignment.gate),
        settle=machine.settle,
    )
    configs = [config(assignment.workload, recipe, assignment.variant) for recipe in recipes]
    prepared = session.set_up(configs[0], log.notice)
    with tempfile.TemporaryDirectory() as folder:
        members = [
            session.enter(prepared, each, log, Path(folder) / str(number), name=f"member-{number}")
            for number, each in enumerate(configs)
        ]
        with suppress(StoppedError):
            watch = _Stopwatch(clock, prepared.dataset.train)
            train(prepared.cohort, watch, stop=StopWhen(lambda: clock.is_over))
        whole = assignment.steps is None
        metrics = [
            session.summary(each, session.conclude(prepared, each)) if whole else {} for each in members
        ]
    return Answer(
        seconds=clock.seconds,
        examples=clock.examples,
        tokens=clock.tokens,
        memory_bytes=machine.peak_memory_bytes(),
        linear_weights=machine.linear_weights(prepared.network.encoder),
        precision=precision_name(prepared.network.dtype),
        metrics=tuple(metrics),
        notices=tuple(log.notices),
    )


def config(workload: Workload, recipe: Recipe, layout: str) -> RunConfig:
    kinds = {1: "single_cls", 2: "double_cls"}
    settings: dict[str, Any] = {
        "exp_id": f"bench_{workload.name}",
        "task_type": kinds.get(len(workload.columns), "multi_cls"),
        "register": False,
        "data": {
            "raw_data_path": workload.train,
            "validation_path": workload.validation,
            "test_path": workload.test,
            "label_columns": workload.columns,
            "max_len": workload.max_len,
        },
        "model": {
            "arch": workload.base,
            "pooling": "mean",
            "lora": {
                "rank": recipe.rank,
                "alpha": recipe.alpha,
                "dropout": recipe.dropout,
                "target_modules": ["query", "value"],
            },
        },
        "train": {
            "batch_size": recipe.batch_size,
            "lr": recipe.lr,
            "epochs": recipe.epochs,
            "seed": recipe.seed,
            "warmup_share": recipe.warmup_share,
            "weight_decay": recipe.weight_decay,
            "save_strategy": "last",
            "layout": layout,
            "precision": recipe.precision,
        },
    }
    if len(workload.columns) > 1:
        settings["data"]["label_subset"] = dict.fromkeys(workload.columns, "all")
    return RunConfig.model_validate(settings)


class _Stopwatch:
    """Tells the clock what each step of the cohort trained; sees evaluations begin and end."""

    def __init__(self, clock: Clock, split: Encoded) -> None:
        self.clock = clock
        self._lengths = np.diff(split.offsets)
        self._batches: dict[str, Iterator[tuple[int, int]]] = {}
        self._steps: dict[str, int] = {}

    def step(self, members: Sequence[Member]) -> None:
        trained = [next(self._of(each)) for each in members if each.step > self._steps.get(each.name, 0)]
        self._steps |= {each.name: each.step for each in members}
        if trained:
            self.clock.step(sum(rows for rows, _ in trained), sum(tokens for _, tokens in trained))
        if len(trained) < len(members):  # the others' epochs are over, and are evaluated next
            self.clock.pause()

    def epoch(self, member: Member) -> None:
        self.clock.resume()

    def _of(self, member: Member) -> Iterator[tuple[int, int]]:
        return self._batches.setdefault(member.name, self._sizes(member))

    def _sizes(self, member: Member) -> Iterator[tuple[int, int]]:
        """Examples and tokens of each step of the member, from its first on."""
        train_settings = member.config.train
        for epoch in count(1):
            for rows in epoch_batches(
                len(self._lengths), train_settings.batch_size, train_settings.seed, epoch
            ):
                yield len(rows), int(self._lengths[rows].sum())


if __name__ == "__main__":
    main()
