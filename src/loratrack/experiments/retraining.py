"""Retrain the best trial with other seeds: the best of many is partly luck."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass

from loratrack.config import RunConfig
from loratrack.errors import UserError
from loratrack.experiments import recording
from loratrack.experiments.recording import WriterLog
from loratrack.experiments.watcher import Nobody
from loratrack.training import session
from loratrack.training.cohort import Stop, train
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
    results = [metrics for configs in cohorts.values() for metrics in _train(configs, parent_run_id, stop)]
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


def _train(configs: list[RunConfig], parent_run_id: str, stop: Stop) -> list[dict[str, float]]:
    """One cohort; the metrics of each member that came to its end."""
    prepared = session.set_up(configs[0], lambda text: None)
    logs = [WriterLog(recording.start(config, parent_run_id)) for config in configs]
    open_runs = {log.writer.run_id: log.writer for log in logs}
    works = [recording.new_work_folder(log.writer.run_id) for log in logs]
    try:
        members = [
            recording.enter(prepared, config, log, work, name=f"seed-{config.train.seed}")
            for config, log, work in zip(configs, logs, works, strict=True)
        ]
        train(prepared.cohort, Nobody(), stop=stop)
        results = []
        for member, log, work in zip(members, logs, works, strict=True):
            is_done = member.status == "finished"
            outcome = session.conclude(prepared, member) if is_done else None
            metrics = recording.keep(prepared, member, outcome, log, work, with_weights=is_done)
            del open_runs[log.writer.run_id]
            if not is_done:
                recording.keep_reason(log, member.reason)
            log.writer.finish("FINISHED" if is_done else "FAILED")
            results += [metrics] if is_done else []
        return results
    finally:
        for writer in open_runs.values():
            writer.finish("KILLED")
        for work in works:
            shutil.rmtree(work, ignore_errors=True)
