"""`loratrack run CONFIG`: one experiment, from its file to a registered model."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from loratrack import __version__
from loratrack.config import RunConfig, files, flat, load, plain
from loratrack.errors import UserError
from loratrack.places import PYFUNC

if TYPE_CHECKING:
    from loratrack.tracking.runs import Run
    from loratrack.training.interrupt import Interruption
    from loratrack.training.member import Member
    from loratrack.training.session import Bench, Outcome


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("run", help="train what a config says")
    parser.add_argument("config", help="a YAML file, such as projects/clinc/dual.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, such as train.epochs=2; repeat it, or part several with ';'",
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    console = Console(soft_wrap=True)
    config = with_project(load(arguments.config, arguments.set), Path(arguments.config))
    return run(config, console)


def run(config: RunConfig, console: Console) -> int:
    """Train, log, check and register; the exit code is 0, or 128 + the signal that ended it early."""
    from loratrack.tracking import runs
    from loratrack.training.interrupt import interruptible

    record = runs.Run.start(name=config.exp_id, params=flat(plain(config)), tags=_tags(config))
    console.print(f"{config.exp_id}: run {record.run_id}", highlight=False)
    log = RecordedLog(record, console)
    with _failing(record), interruptible() as interruption, _work_folder(record.run_id) as work:
        bench, member, outcome = _train(config, log, work, console, interruption)
        _check(work / "artifacts", outcome)
        record.metrics(_summary(member, outcome), step=len(member.history))
        record.artifacts(work / "artifacts")
        if member.status == "failed":
            raise UserError(f"{config.exp_id}: {member.reason}")
        if interruption.signal is not None:
            record.finish("KILLED")
            kept = f"epoch {member.best.epoch} is kept" if member.best else "nothing was learned yet"
            console.print(f"ended by {interruption.signal.name}; {kept}", highlight=False)
            return 128 + interruption.signal
        version = _register(config, record, member, outcome, console)
        sent = record.finish("FINISHED")
    _tell(console, record, member, outcome, version, sent)
    return 0


class RecordedLog:
    """What training says, on the screen and in the run: metrics to the store, notices to a file."""

    def __init__(self, record: Run, console: Console) -> None:
        self.record, self.console = record, console
        self.notices: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.record.metrics(values, step)

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.console.print(text, highlight=False, markup=False)


def with_project(config: RunConfig, file: Path) -> RunConfig:
    """`register: true` becomes the project's name, so that a frozen copy says it too."""
    if config.register_as is not True:
        return config
    return config.model_copy(update={"register_as": project_name(file)})


def project_name(file: Path) -> str:
    """The folder below projects/ that the config lies in, else the folder itself."""
    folders = file.resolve().parent.parts
    if "projects" in folders[:-1]:
        return folders[len(folders) - 1 - folders[::-1].index("projects") + 1]
    return folders[-1]


def _train(
    config: RunConfig, log: RecordedLog, work: Path, console: Console, interruption: Interruption
) -> tuple[Bench, Member, Outcome | None]:
    import torch

    from loratrack.training import session
    from loratrack.training.cohort import train
    from loratrack.training.progress import ProgressBar

    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    bench = session.set_up(config, log.notice)
    _tell_data(config, bench, log.record)
    member = session.enter(bench, config, log, work)
    trainable, total = bench.network.parameter_counts(member.name)
    log.record.params({"trainable_parameters": trainable, "total_parameters": total})
    with ProgressBar(console) as bar:
        train(bench.cohort, bar, stop=lambda: bool(interruption))
    outcome = session.conclude(bench, member) if member.best and not interruption else None
    session.write(bench, member, outcome, work / "artifacts")
    _write_more(config, bench, member, outcome, work / "artifacts", log)
    return bench, member, outcome


def _tell_data(config: RunConfig, bench: Bench, record: Run) -> None:
    """Which data, base and layout this is, as tags and datasets of the run."""
    from loratrack.config.schema import data_paths

    dataset = bench.dataset
    record.tags({"data_sha256": dataset.sha256, "base_sha256": bench.base.sha256})
    rows = {
        "data.raw_data_path": ("training", len(dataset.train)),
        "data.validation_path": ("validation", len(dataset.validation)),
        "data.test_path": ("test", 0 if dataset.test is None else len(dataset.test)),
    }
    for setting, path in data_paths(config).items():
        if setting in rows:
            context, num_rows = rows[setting]
            record.dataset(path.name, str(path), bench.files_sha256[setting], context, num_rows)


def _write_more(
    config: RunConfig, bench: Bench, member: Member, outcome: Outcome | None, folder: Path, log: RecordedLog
) -> None:
    """What tracking and serving add to the run's files."""
    import json

    from loratrack.serving import pyfunc
    from loratrack.tracking import plots
    from loratrack.tracking.environment import environment

    if member.best is not None:
        draft = folder.with_name(PYFUNC)  # MLflow copies the folder, so it cannot write into it
        pyfunc.save(folder, draft, config)
        draft.rename(folder / PYFUNC)
    (folder / "env_info.json").write_text(json.dumps(environment(), ensure_ascii=False, indent=1), "utf-8")
    (folder / "notices.txt").write_text("".join(f"{line}\n" for line in log.notices), "utf-8")
    if not member.history:
        return
    labels = {task.name: task.labels for task in bench.dataset.label_map.tasks}
    matrices = {} if outcome is None else outcome.confusions
    confusion = {task: (labels[task], matrix) for task, matrix in matrices.items()}
    plots.draw(folder / "plots", dict(enumerate(member.history, start=1)), confusion)


def _check(folder: Path, outcome: Outcome | None) -> None:
    """The gate of every run: what was saved gives the logits of what was trained."""
    from loratrack.serving.classifier import check_reload

    if outcome is not None:
        check_reload(folder, outcome.probe, outcome.probe_logits)


def _summary(member: Member, outcome: Outcome | None) -> dict[str, float]:
    from loratrack.training import session

    return session.summary(member, outcome)


def _register(
    config: RunConfig, record: Run, member: Member, outcome: Outcome | None, console: Console
) -> int | None:
    from loratrack.tracking import registry

    if config.register_as is False:
        return None
    if not record.flush():
        console.print("not registered, since the tracking store does not answer", style="yellow")
        return None
    tags = {"exp_id": config.exp_id, **{name: f"{v:.6g}" for name, v in _summary(member, outcome).items()}}
    return registry.register(record.run_id, str(config.register_as), PYFUNC, tags)


def _tell(
    console: Console,
    record: Run,
    member: Member,
    outcome: Outcome | None,
    version: int | None,
    sent: bool,
) -> None:
    """The summary: scores of each task, the best epoch, and what to do next."""
    from loratrack.tracking import store

    config = member.config
    console.print(_scores(member, outcome))
    assert member.best is not None, "a finished run has a best epoch"
    model = f"models:/{config.register_as}/{version}" if version else f"runs:/{record.run_id}"
    given = '--text "…"' if len(config.text_columns) == 1 else "--file in.csv"
    chosen_by = config.best_metric or "save_strategy: last"
    lines = [
        f"best epoch   {member.best.epoch} of {len(member.history)} (by {chosen_by})",
        f"run          {record.run_id}",
        f"artefacts    {store.client().get_run(record.run_id).info.artifact_uri}",
        f"model        {model}",
        "look at it   mlflow ui",
        f"predict      loratrack predict --model {model} {given}",
    ]
    if not sent:
        lines.append("the tracking store does not answer: send the rest with loratrack sync")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _scores(member: Member, outcome: Outcome | None) -> Table:
    config = member.config
    values = _summary(member, outcome)
    table = Table(title=config.exp_id)
    for heading in ("task", "validation accuracy", "validation F1", "test accuracy", "test F1"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    names = {f"{task}_": task for task in config.tasks} | {"avg_": "average"}
    for prefix, name in names.items() if len(config.tasks) > 1 else [("", config.tasks[0])]:
        cells = [
            values.get(f"{kind}_{prefix}{measure}")
            for kind in ("best", "test")
            for measure in ("accuracy", "f1")
        ]
        table.add_row(name, *("–" if cell is None else f"{cell:.4f}" for cell in cells))
    return table


def _tags(config: RunConfig) -> dict[str, str]:
    from loratrack.tracking.environment import device_name, git

    commit = git()
    tags = {
        "exp_id": config.exp_id,
        "task_type": config.task_type,
        "project": str(config.register_as),
        "base_config": config.base_config or "",
        "config_sha256": files.sha256(config),
        "device": device_name(),
        "git_commit": "" if commit is None else str(commit["commit"]),
        "loratrack_version": __version__,
    }
    return {name: value for name, value in tags.items() if value}


@contextmanager
def _failing(record: Run) -> Iterator[None]:
    """However a run breaks off, it is not left RUNNING."""
    try:
        yield
    except BaseException:
        record.finish("FAILED")
        raise


@contextmanager
def _work_folder(run_id: str) -> Iterator[Path]:
    """Where a run keeps its files until they are handed over; gone afterwards."""
    from loratrack.tracking import store

    folder = store.folder() / "work" / run_id
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
