"""`loratrack sweep CONFIG`: many trials on one base, the best of them registered; and what came of it."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from loratrack.config import RunConfig, files, flat, plain
from loratrack.config.sweep import SweepConfig, load_sweep
from loratrack.errors import UserError
from loratrack.experiments import recording
from loratrack.places import PYFUNC

if TYPE_CHECKING:
    import optuna

    from loratrack.experiments.interrupt import Interruption
    from loratrack.sweep.report import Report
    from loratrack.sweep.study import Search
    from loratrack.tracking.writer import RunWriter

DATABASE, LOCK = "optuna.db", ".optuna.lock"
SHOW = "show"
BEST_CONFIG, SWEEP_COPY = "best_config.yaml", "sweep_copy.yaml"


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "sweep",
        help="search for the best settings",
        usage="loratrack sweep CONFIG [--set KEY=VALUE]\n"
        "       loratrack sweep show NAME [--plot DIR] [--storage URL]",
    )
    parser.add_argument("config", help="a YAML file with a `sweep` section; or the word show")
    parser.add_argument("name", nargs="?", metavar="NAME", help="for show: the sweep's name")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, such as sweep.trials=8; repeat it, or part several with ';'",
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="for show: write pictures and a page there")
    parser.add_argument(
        "--storage", metavar="URL", help="for show: the sweep's storage, where it has its own"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.sweep.checks import check

    console = Console(soft_wrap=True)
    if arguments.config == SHOW:
        return show(arguments, console)
    if arguments.name is not None:
        raise UserError(f"sweep: takes one config, got {arguments.config!r} and {arguments.name!r}")
    config = load_sweep(arguments.config, arguments.set)
    check(config, arguments.config)
    project = recording.project_name(Path(arguments.config))
    name = project if config.register_as is True else config.register_as
    return sweep(config.model_copy(update={"register_as": name}), project, console)


def sweep(config: SweepConfig, project: str, console: Console) -> int:
    """Work on the sweep until it is over; the exit code is 0, or 128 + the signal that ended it early."""
    from loratrack.cli.sweep_lines import SweepScreen
    from loratrack.experiments.interrupt import interruptible
    from loratrack.experiments.trials import TrialRunner
    from loratrack.store.place import store_folder
    from loratrack.sweep.study import Search

    folder = store_folder()
    folder.mkdir(parents=True, exist_ok=True)
    url = config.sweep.storage or f"sqlite:///{folder / DATABASE}"
    search = Search(config, url, folder / LOCK, lambda text: _print(console, text))
    try:
        with interruptible() as interruption:
            parent = _parent(search, config)
            _print(console, f"{config.sweep.name}: run {parent.run_id}, study in {url}")
            try:
                TrialRunner(search, parent, SweepScreen(console, search), lambda: bool(interruption)).work()
                return _end(search, config, project, parent, console, interruption)
            except BaseException:
                parent.finish("FAILED")
                raise
    finally:
        search.close()


def show(arguments: argparse.Namespace, console: Console) -> int:
    """The best trials of a sweep, and what mattered."""
    from loratrack.store.place import store_folder
    from loratrack.sweep import report, study

    if arguments.name is None:
        raise UserError("sweep show: needs the name of a sweep: loratrack sweep show NAME")
    file = store_folder() / DATABASE
    if arguments.storage is None and not file.exists():
        raise UserError(f"sweep show: there is no sweep yet in {file}")
    found_study = study.existing(arguments.storage or f"sqlite:///{file}", arguments.name)
    found = report.report(found_study)
    _tell(found, console)
    if arguments.plot is not None:
        _write_report(found_study, found, arguments.plot)
        _print(console, f"page         {arguments.plot / 'sweep.html'}")
    return 0


def _parent(search: Search, config: SweepConfig) -> RunWriter:
    """The run of the sweep, which all its processes share."""
    from loratrack.sweep.study import PARENT
    from loratrack.tracking.writer import RunWriter

    with search.locked():
        known = search.attr(PARENT)
        if known is not None:
            return RunWriter.attach(known)
        tags = {**recording.tags(config), "sweep": config.sweep.name}
        parent = RunWriter.start(name=config.sweep.name, params=flat(plain(config)), tags=tags)
        search.set_attr(PARENT, parent.run_id)
        return parent


def _end(
    search: Search,
    config: SweepConfig,
    project: str,
    parent: RunWriter,
    console: Console,
    interruption: Interruption,
) -> int:
    """The last process to leave concludes the sweep."""
    from loratrack.sweep.study import CONCLUDED

    _end_runs_of_the_dead(search, parent)
    with search.last_one_out() as is_alone:
        if not is_alone or search.running_elsewhere():
            parent.leave()
        elif interruption.signal is None:
            done = search.num_done()
            if search.attr(CONCLUDED) != done:
                _conclude(search, config, project, parent, console, interruption)
            if not interruption:
                search.set_attr(CONCLUDED, done)
            parent.finish("KILLED" if interruption else "FINISHED")
        else:
            parent.finish("KILLED")
    if interruption.signal is not None:
        again = "go on with the same command"
        _print(console, f"ended by {interruption.signal.name}; {search.num_done()} trials are done; {again}")
        return 128 + interruption.signal
    return 0


def _end_runs_of_the_dead(search: Search, parent: RunWriter) -> None:
    """A run whose trial is over and that is still RUNNING belongs to a process that was killed."""
    from loratrack.tracking import child_runs

    for child in child_runs.running(parent.run_id):
        name, _, number = child.name.rpartition("-")
        if name == search.sweep.name and number.isdecimal() and search.is_over(int(number)):
            child_runs.end(child.run_id, "KILLED", "its process died; the trial was begun again")


def _conclude(
    search: Search,
    config: SweepConfig,
    project: str,
    parent: RunWriter,
    console: Console,
    interruption: Interruption,
) -> None:
    """Best trial, its version, its retraining and the report, on the sweep's run."""
    from loratrack.store.place import store_folder
    from loratrack.sweep import report, space

    best = search.best()
    found = report.report(search.study)
    _tell(found, console)
    work = store_folder() / "work" / parent.run_id
    shutil.rmtree(work, ignore_errors=True)
    try:
        _write_report(search.study, found, work)
        files.save(config, work / SWEEP_COPY)
        if best is not None:
            best_config = space.trial_config(config, best.number, space.replay(config, best.params))
            files.save(best_config, work / BEST_CONFIG)
            parent.set_tags({f"best.{key}": str(value) for key, value in best.params.items()})
            parent.set_tags(
                {"best_trial": str(best.number), "best_run_id": str(best.user_attrs.get("run_id"))}
            )
            _register(search, best_config, project, parent, console)
            _retrain(search, best_config, parent, console, interruption)
        parent.log_artifacts(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _register(search: Search, best: RunConfig, project: str, parent: RunWriter, console: Console) -> None:
    """The best trial becomes a version, once."""
    from loratrack.registry import register

    trial = search.best()
    assert trial is not None, "asked for the best"
    if not search.sweep.register_best or search.attr("registered") == trial.number:
        return
    name = project if best.register_as is False else str(best.register_as)
    metrics = zip(search.sweep.metrics, trial.values, strict=True)
    tags = {"exp_id": best.exp_id, **{f"best_{metric}": f"{value:.6g}" for metric, value in metrics}}
    version = register.register(str(trial.user_attrs["run_id"]), name, PYFUNC, tags)
    search.set_attr("registered", trial.number)
    parent.set_tags({"best_version": f"models:/{name}/{version}"})
    _print(console, f"model        models:/{name}/{version}")


def _retrain(
    search: Search, best: RunConfig, parent: RunWriter, console: Console, interruption: Interruption
) -> None:
    from loratrack.experiments.retraining import retrain

    times = search.sweep.retrain_best
    if not times:
        return
    _print(console, f"training the best trial again with {times} other seeds")
    spreads = retrain(best, search.sweep.name, times, parent.run_id, lambda: bool(interruption))
    told: dict[str, float] = {}
    for metric, spread in spreads.items():
        name = metric.removeprefix("best_")
        told |= {f"retrained_{name}_mean": spread.mean, f"retrained_{name}_sd": spread.deviation}
        if name in search.sweep.metrics or name.removeprefix("test_") in search.sweep.metrics:
            _print(console, f"  {name} {spread.mean:.4f} ± {spread.deviation:.4f} (sd of {times} seeds)")
    parent.log_metrics(told, step=search.num_done())


def _write_report(study: optuna.Study, found: Report, folder: Path) -> None:
    from loratrack.sweep import report

    folder.mkdir(parents=True, exist_ok=True)
    pictures = report.draw(study, found, folder / "plots")
    (folder / "sweep.html").write_text(report.page(found, pictures), encoding="utf-8")


def _tell(found: Report, console: Console) -> None:
    from loratrack.sweep import report

    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    _print(console, f"{found.name}: {counts or 'no trials yet'}")
    for title, lines in (("best trials", report.rows(found)), ("importance", report.importance_rows(found))):
        if len(lines) > 1:
            table = Table(*lines[0], title=title)
            for line in lines[1:]:
                table.add_row(*line)
            console.print(table)
    _print(console, f"importance   {found.evidence}")


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)
