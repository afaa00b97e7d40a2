"""`loratrack run CONFIG`: one experiment, from its file to a registered model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from loratrack.cli import screen
from loratrack.config import RunConfig, load
from loratrack.errors import UserError
from loratrack.experiments import recording
from loratrack.experiments.recording import WriterLog

if TYPE_CHECKING:
    from loratrack.experiments.interrupt import Interruption
    from loratrack.tracking.writer import RunWriter
    from loratrack.training.member import Member
    from loratrack.training.session import Outcome, Prepared


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
    console = screen.console()
    config = recording.with_project(load(arguments.config, arguments.set), Path(arguments.config))
    return run(config, console)


def run(config: RunConfig, console: Console) -> int:
    """Train, log, check and register; the exit code is 0, or 128 + the signal that ended it early."""
    from loratrack.experiments.interrupt import interruptible

    with interruptible() as interruption:
        writer = recording.start(config)
        console.print(f"{config.exp_id}: run {writer.run_id}")
        log = WriterLog(writer, lambda text: console.print(text))
        with recording.failing(writer), recording.work_folder(writer.run_id) as work:
            prepared, member, outcome = train_one(config, log, work, console, interruption)
            values = recording.keep(prepared, member, outcome, log, work)
            if member.status == "failed":
                raise UserError(f"{config.exp_id}: {member.reason}")
            if interruption.signal is not None:
                writer.finish("KILLED")
                kept = f"epoch {member.best.epoch} is kept" if member.best else "nothing was learned yet"
                console.print(f"ended by {interruption.signal.name}; {kept}")
                return 128 + interruption.signal
            version = _register(config, writer, values, console)
            sent = writer.finish("FINISHED")
    _tell(console, writer, member, values, version, sent)
    return 0


def train_one(
    config: RunConfig, log: WriterLog, work: Path, console: Console, interruption: Interruption
) -> tuple[Prepared, Member, Outcome | None]:
    import torch

    from loratrack.cli.progress import ProgressBar
    from loratrack.training import session
    from loratrack.training.cohort import train

    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    prepared = session.set_up(config, log.notice)
    member = recording.enter(prepared, config, log, work)
    with ProgressBar(console) as bar:
        train(prepared.cohort, bar, stop=lambda: bool(interruption))
    outcome = session.conclude(prepared, member) if member.best and not interruption else None
    return prepared, member, outcome


def _register(
    config: RunConfig, writer: RunWriter, values: Mapping[str, float], console: Console
) -> int | None:
    if config.register_as is False:
        return None
    version = recording.register(config, writer, str(config.register_as), values)
    if version is None:
        console.print("not registered, since the tracking store does not answer", style="yellow")
    return version


def _tell(
    console: Console,
    writer: RunWriter,
    member: Member,
    values: Mapping[str, float],
    version: int | None,
    sent: bool,
) -> None:
    """The summary: scores of each task, the best epoch, and what to do next."""

    from loratrack.store.client import connect

    config = member.config
    console.print(_scores(member, values))
    assert member.best is not None, "a finished run has a best epoch"
    model = f"models:/{config.register_as}/{version}" if version else f"runs:/{writer.run_id}"
    given = '--text "…"' if len(config.text_columns) == 1 else "--file in.csv"
    chosen_by = config.best_metric or "save_strategy: last"
    lines = [
        f"best epoch   {member.best.epoch} of {len(member.history)} (by {chosen_by})",
        f"run          {writer.run_id}",
        f"artefacts    {connect().get_run(writer.run_id).info.artifact_uri}",
        f"model        {model}",
        "look at it   mlflow ui",
        f"predict      loratrack predict --model {model} {given}",
    ]
    if not sent:
        lines.append("the tracking store does not answer: send the rest with loratrack sync")
    for line in lines:
        console.print(line)


def _scores(member: Member, values: Mapping[str, float]) -> Table:
    config = member.config
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
