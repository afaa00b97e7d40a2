"""A sweep: many trials on one base, by any number of processes; the last one to leave concludes it.

result = sweep(load_search("projects/clinc/sweep.yaml"))
result.version, result.best_settings
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from loratrack.checkpoints import home_of
from loratrack.config import RunConfig, files, flat, plain
from loratrack.config.sweep import SweepConfig
from loratrack.data import Corpus
from loratrack.errors import RefusedError, StoppedError, StoreError
from loratrack.experiments import recording
from loratrack.experiments.checking import check
from loratrack.experiments.hiding import storable, texts_hidden
from loratrack.experiments.interrupt import Interruption, interruptible
from loratrack.experiments.recording import WriterLog
from loratrack.experiments.registration import Choice, choose_stored
from loratrack.experiments.result import Sweep
from loratrack.experiments.retraining import retrain, run_name
from loratrack.experiments.run import artifact_uri
from loratrack.experiments.trained_bases import pinned
from loratrack.experiments.trials import STORE_WAIT_SECONDS, TrialRunner
from loratrack.experiments.watcher import Nobody, Watcher
from loratrack.places import ANSWERS, ARTIFACTS, METRICS, PLOTS
from loratrack.registry import pages
from loratrack.store.client import EXPERIMENT, answering, connect
from loratrack.store.place import store_folder
from loratrack.store.secrets import scrub_name
from loratrack.tracking import artifacts, child_runs
from loratrack.tracking.outbox import work_folder
from loratrack.tracking.registration import registered
from loratrack.tracking.writer import RunWriter
from loratrack.tuning import report as reports
from loratrack.tuning import space, study
from loratrack.tuning.report import Report
from loratrack.tuning.study import CONCLUDED, PARENT, RUN, Search
from loratrack.views import answers
from loratrack.views import sweep as views

DATABASE, LOCK = "optuna.db", ".optuna.lock"
BEST_CONFIG, SWEEP_COPY = "best_config.yaml", "sweep_copy.yaml"
VERSION = "best_version"
"""The tag of the sweep's run that names the registered version."""


def sweep(config: SweepConfig, watcher: Watcher | None = None, corpus: Corpus | None = None) -> Sweep:
    """Train trials until the sweep is over, or until a signal ends this process's part of it.

    `corpus`: what `checking.check` gave of this config; None: it is checked here.
    """
    corpus = check(config) if corpus is None else corpus
    watcher, config = watcher or Nobody(), texts_hidden(pinned(config))
    shown = storable(config)  # a secret in a name is told before there is a study
    folder = store_folder()
    folder.mkdir(parents=True, exist_ok=True)
    url = config.sweep.storage or f"sqlite:///{folder / DATABASE}"
    search = Search(config, url, folder / LOCK, watcher.notice, shown)
    try:
        with interruptible() as interruption:
            parent = _parent(search, shown)
            watcher.notice(f"{config.sweep.name}: run {parent.run_id}, study in {scrub_name(url)}")
            work = Work(search, config, parent, watcher, interruption)
            with recording.failing(WriterLog(parent)):
                runner = TrialRunner(search, parent, watcher, interruption, corpus)
                runner.work()
                return _end(work, is_stopped=runner.is_stopped)
    finally:
        search.close()


def existing(name: str, storage: str | None = None) -> tuple[optuna.Study, Report]:
    """A sweep that was begun, and how it stands."""
    file = store_folder() / DATABASE
    if storage is None and not file.exists():
        raise RefusedError(f"sweep show: there is no sweep yet in {file}")
    begun = study.existing(storage or f"sqlite:///{file}", name)
    return begun, reports.report(begun)


@dataclass(frozen=True)
class Work:
    """What this process has in hand."""

    search: Search
    config: SweepConfig
    parent: RunWriter
    watcher: Watcher
    interruption: Interruption


def _parent(search: Search, config: SweepConfig) -> RunWriter:
    """The run of the sweep, which all its processes share."""
    with search.locked():
        run_id = search.attr(PARENT)
        if run_id is not None:
            return RunWriter.attach(run_id)
        tags = {**recording.tags(config), "sweep": config.sweep.name}
        parent = RunWriter.start(
            name=config.sweep.name,
            params=flat(plain(config)),
            tags=tags,
            experiment=config.experiment or EXPERIMENT,
        )
        search.set_attr(PARENT, parent.run_id)
        return parent


def _end(work: Work, *, is_stopped: bool) -> Sweep:
    """The last process to leave concludes the sweep, unless it was stopped."""
    search, parent, interruption = work.search, work.parent, work.interruption
    _end_left_behind(search, parent.run_id)
    concluded: Mapping[str, str] | None = None
    with search.last_one_out() as is_last:
        if not is_last or search.running_elsewhere():
            parent.leave()
        elif not is_stopped:
            done = search.num_done()
            try:
                if search.attr(CONCLUDED) != done:
                    concluded = _conclude(work)
                search.set_attr(CONCLUDED, done)
            except StoppedError:
                is_stopped = True
            parent.finish("KILLED" if is_stopped else "FINISHED")
        else:
            with suppress(StoreError):  # on a full disk it stays RUNNING, with a process that is gone
                parent.finish("KILLED", STORE_WAIT_SECONDS)
    best = search.best()
    bests = {} if best is None else dict(zip(search.sweep.metrics, best.values, strict=True))
    return Sweep(
        exp_id=work.config.exp_id,
        name=search.sweep.name,
        run_id=parent.run_id,
        status="KILLED" if is_stopped else "FINISHED",
        metrics={f"best_{name}": value for name, value in bests.items()},
        version=(concluded or {}).get(VERSION, "").removeprefix("models:/") or None,
        artifact_uri=artifact_uri(parent.run_id),
        experiment_id=parent.experiment_id,
        ended_by=interruption.signal,
        is_concluded=concluded is not None,
        num_done=search.num_done(),
        report=reports.report(search.study),
        best_run_id=None if best is None else best.user_attrs.get("run_id"),
        best_settings={} if best is None else dict(best.params),
    )


def _end_left_behind(search: Search, parent_run_id: str) -> None:
    """Runs, checkpoints and files of trials that are over, as a process has left them that was killed."""
    run_ids = {trial.user_attrs.get(RUN) for trial in search.trials() if trial.state.is_finished()}
    for child in child_runs.running(parent_run_id):
        home = home_of(store_folder(), child.run_id)
        if child.name.startswith(run_name(search.sweep.name)) and child.is_gone and home.about() is None:
            child_runs.end(child.run_id, "KILLED", "its process died")  # before anything of it was saved
            run_ids.add(child.run_id)
        name, _, number = child.name.rpartition("-")
        if name == search.sweep.name and number.isdecimal() and search.is_over(int(number)):
            trial = search.trials()[int(number)]
            # another run of the trial was killed before it was saved, and the trial began anew
            is_complete = trial.state == TrialState.COMPLETE and trial.user_attrs.get(RUN) == child.run_id
            child_runs.end(child.run_id, "FINISHED" if is_complete else "KILLED", "its process died")
            run_ids.add(child.run_id)
    for run_id in run_ids - {None}:
        home_of(store_folder(), str(run_id)).remove()
        shutil.rmtree(work_folder(store_folder(), str(run_id)), ignore_errors=True)


def _conclude(work: Work) -> dict[str, str]:
    """Best trial, its version, its retraining and the report, on the sweep's run; gives the tags it wrote."""
    search, config, parent, watcher = work.search, work.config, work.parent, work.watcher
    best = search.best()
    tags: dict[str, str] = {}
    home = work_folder(store_folder(), parent.run_id)
    folder = home / ARTIFACTS
    shutil.rmtree(home, ignore_errors=True)
    try:
        views.write(search.study, reports.report(search.study), folder)
        files.save(storable(config), folder / SWEEP_COPY)
        if best is not None:
            best_config = space.trial_config(config, best.number, space.replay(config, best.params))
            files.save(storable(best_config), folder / BEST_CONFIG)
            run_id = str(best.user_attrs["run_id"])
            tags = {f"best.{key}": str(value) for key, value in best.params.items()}
            tags |= {"best_trial": str(best.number), "best_run_id": run_id}
            metrics = dict(zip(search.sweep.metrics, best.values, strict=True))
            name = config.registered_model if search.sweep.register_best else None
            is_new = name is not None and search.attr("registered") != best.number
            choice = choose_stored(config, run_id) if is_new else Choice(False)
            if choice.why:
                watcher.notice(choice.why)
            if name is not None and choice.is_registered:
                bests = {f"best_{metric}": value for metric, value in metrics.items()}
                text = pages.about(run_id, recording.description(best_config), bests)
                parent.ask_version(name, pages.tags(best_config.exp_id, bests), text, run_id)
                search.set_attr("registered", best.number)
                if parent.flush(run_id=run_id):
                    tags[VERSION] = f"models:/{name}/{registered(run_id, name)}"
                    watcher.notice(f"model        {tags[VERSION]}")
                else:
                    watcher.notice("not registered yet: the tracking store does not answer; loratrack sync")
            parent.set_tags(tags)
            _draw_best(work, run_id, home / "best")
            if search.sweep.retrain_best:
                _retrain(work, best_config)
        parent.hand_over(folder)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return tags


def _draw_best(work: Work, run_id: str, folder: Path) -> None:
    """The pictures of the best trial's run; those of the others are drawn when somebody looks."""
    try:
        folder.mkdir()
        with answering():
            run = connect().get_run(run_id)
        kept = artifacts.fetch(run, (METRICS, ANSWERS), folder)
        texts = {name: file.read_text("utf-8") for name, file in kept.items()}
        answers.draw(folder / ARTIFACTS / PLOTS, texts[METRICS], texts.get(ANSWERS))
        work.parent.hand_over(folder / ARTIFACTS, run_id)
        work.parent.flush(STORE_WAIT_SECONDS, run_id)
    except Exception as error:  # noqa: BLE001  whatever is wrong with a picture, the sweep stands
        work.watcher.notice(
            f"{PLOTS}: those of the best trial are not drawn ({type(error).__name__}: {error});"
            f" loratrack show {run_id} --plots DIR draws them"
        )


def _retrain(work: Work, best_config: RunConfig) -> None:
    """Mean and deviation of the best trial's metrics over other seeds, on the sweep's run."""
    search, watcher, times = work.search, work.watcher, work.search.sweep.retrain_best
    watcher.notice(f"training the best trial again with {times} other seeds")
    spreads = retrain(best_config, search.sweep.name, times, work.parent.run_id, work.interruption)
    metrics: dict[str, float] = {}
    for metric, spread in spreads.items():
        name = metric.removeprefix("best_")
        metrics |= {f"retrained_{name}_mean": spread.mean, f"retrained_{name}_sd": spread.deviation}
        if name.removeprefix("test_") in search.sweep.metrics:
            watcher.notice(f"  {name} {spread.mean:.4f} ± {spread.deviation:.4f} (sd of {times} seeds)")
    work.parent.log_metrics(metrics, step=search.num_done())
