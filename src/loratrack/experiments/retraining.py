"""The best trial once more, with other seeds: the best of many trials is better by luck too."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loratrack.config import RunConfig
from loratrack.errors import UserError
from loratrack.experiments import recording
from loratrack.experiments.recording import WriterLog
from loratrack.sweep.cohorts import group
from loratrack.training import session
from loratrack.training.cohort import train
from loratrack.training.member import Member


@dataclass(frozen=True)
class Spread:
    mean: float
    deviation: float
    """Standard deviation over the seeds; 0 with a single one."""


def retrain(
    best: RunConfig, name: str, times: int, parent_run_id: str, stop: Callable[[], bool]
) -> dict[str, Spread]:
    """Mean and deviation of each metric over so many new seeds, one run each below the sweep's."""
    seeds = [(best.train.seed + shift) % 2**32 for shift in range(1, times + 1)]
    cohorts: dict[str, list[RunConfig]] = {}
    for config in [_with_seed(best, name, seed) for seed in seeds]:
        key = group(config) if config.model.use_lora else config.exp_id
        cohorts.setdefault(key, []).append(config)
    results = [result for configs in cohorts.values() for result in _train(configs, parent_run_id, stop)]
    if len(results) < times:
        raise UserError(f"{name}: only {len(results)} of {times} retrainings came to their end")
    return {metric: _spread([result[metric] for result in results]) for metric in results[0]}


def run_name(sweep: str) -> str:
    """How the names of these runs begin."""
    return f"{sweep}-best-seed-"


def _with_seed(best: RunConfig, name: str, seed: int) -> RunConfig:
    settings = best.train.model_copy(update={"seed": seed})
    return best.model_copy(update={"exp_id": f"{run_name(name)}{seed}", "train": settings})


def _train(
    configs: Sequence[RunConfig], parent_run_id: str, stop: Callable[[], bool]
) -> list[dict[str, float]]:
    prepared = session.set_up(configs[0], lambda text: None)
    logs = [WriterLog(recording.start(config, parent_run_id), lambda text: None) for config in configs]
    open_runs = {log.writer.run_id: log.writer for log in logs}
    try:
        works = [recording.new_work_folder(log.writer.run_id) for log in logs]
        members = [
            recording.enter(prepared, config, log, work, f"seed-{config.train.seed}")
            for config, log, work in zip(configs, logs, works, strict=True)
        ]
        train(prepared.cohort, _Nobody(), stop=stop)
        results = []
        for member, log, work in zip(members, logs, works, strict=True):
            is_done = member.status == "finished"
            outcome = session.conclude(prepared, member) if is_done else None
            values = recording.keep(prepared, member, outcome, log, work, with_weights=is_done)
            del open_runs[log.writer.run_id]
            log.writer.finish("FINISHED" if is_done else "FAILED")
            results += [values] if is_done else []
        return results
    finally:
        for writer in open_runs.values():
            writer.finish("KILLED")


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)


class _Nobody:
    """Watches nothing."""

    def step(self, members: Sequence[Member]) -> None: ...

    def epoch(self, member: Member) -> None: ...
