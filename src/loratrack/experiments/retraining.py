"""Retrain the best trial with other seeds: the best of many is partly luck."""

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import dataclass

from loratrack.config import RunConfig
from loratrack.errors import RefusedError, UserError
from loratrack.experiments import recording, resumption
from loratrack.experiments.recording import Attempt, WriterLog
from loratrack.experiments.watcher import Nobody
from loratrack.training import session
from loratrack.training.cohort import Stop, train
from loratrack.training.keeper import Keeper
from loratrack.training.session import Prepared
from loratrack.tuning.cohorts import group


@dataclass(frozen=True)
class Spread:
    mean: float
    deviation: float
    """Standard deviation over the seeds; 0 with a single one."""


def retrain(best: RunConfig, name: str, times: int, parent_run_id: str, stop: Stop) -> dict[str, Spread]:
    """Mean and deviation of each metric over so many new seeds, one run each below the sweep's."""
    cohorts: dict[str, list[RunConfig]] = {}
    for shift in range(1, times + 1):
        seed = (best.train.seed + shift) % 2**32
        settings = best.train.model_copy(update={"seed": seed})
        config = best.model_copy(update={"exp_id": f"{run_name(name)}{seed}", "train": settings})
        key = group(config) if config.model.use_lora else config.exp_id
        cohorts.setdefault(key, []).append(config)
    results = [
        metrics for configs in cohorts.values() for metrics in _train(configs, name, parent_run_id, stop)
    ]
    if len(results) < times:
        raise UserError(f"{name}: only {len(results)} of {times} retrainings came to their end")
    spreads = {}
    for metric in results[0]:
        values = [metrics[metric] for metrics in results]
        spreads[metric] = Spread(statistics.fmean(values), statistics.stdev(values) if times > 1 else 0.0)
    return spreads


def run_name(sweep: str) -> str:
    """How the names of these runs begin."""
    return f"{sweep}-best-seed-"


def _train(configs: list[RunConfig], sweep: str, parent_run_id: str, stop: Stop) -> list[dict[str, float]]:
    """One cohort; the metrics of each member that came to its end. One that was stopped before goes on."""
    with stop.at_once():
        prepared = session.set_up(configs[0], lambda text: None)
    keeper = Keeper(prepared.cohort)
    begun = [_begun(config, prepared, sweep, parent_run_id) for config in configs]
    open_runs = {log.writer.run_id: log.writer for _, log, _ in begun}
    works = [recording.new_work_folder(log.writer.run_id) for _, log, _ in begun]
    try:
        members = []
        for (config, log, attempt), work in zip(begun, works, strict=True):
            name = f"seed-{config.train.seed}"
            member = recording.enter(prepared, config, log, work, attempt, name)
            recording.follow(keeper, prepared, member, log, attempt)
            members.append(member)
        train(prepared.cohort, Nobody(), stop=stop, keeper=keeper)
        results = []
        for member, (_, log, attempt), work in zip(members, begun, works, strict=True):
            is_done = member.status == "finished"
            outcome = session.conclude(prepared, member) if is_done else None
            metrics = recording.keep(prepared, member, outcome, log, work, with_weights=is_done)
            del open_runs[log.writer.run_id]
            if not is_done:
                recording.keep_reason(log, member.reason)
            log.writer.finish("FINISHED" if is_done else "FAILED")
            attempt.home.remove()
            results += [metrics] if is_done else []
        return results
    finally:
        for writer in open_runs.values():
            writer.finish("KILLED")
        for work in works:
            recording.remove_work_folder(work)


def _begun(
    config: RunConfig, prepared: Prepared, sweep: str, parent_run_id: str
) -> tuple[RunConfig, WriterLog, Attempt]:
    """A new run, or the one that was left when these seeds were trained before."""
    left = resumption.unfinished(config, prepared.dataset.sha256, sweep)
    if left is not None:
        with suppress(RefusedError):
            return resumption.take_up(left.run_id, prepared, lambda text: None)
    log = WriterLog(recording.start(config, parent_run_id))
    return config, log, recording.first_attempt(log, config, sweep)
