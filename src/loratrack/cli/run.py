"""`loratrack run CONFIG`: one experiment, from its file to a registered model."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from loratrack.cli.commands import Commands, add_settings_to, examples
from loratrack.cli.screen import console, loading, print_json, view

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from loratrack.experiments.result import Training

CODES = (
    "exit codes: 0 done, 2 wrong use or failed;\n"
    "  stopped, to be resumed: 130 after Ctrl-C, 143 after SIGTERM, 129 when its terminal is closed,\n"
    "  75 after SIGUSR1 or on a full disk"
)


def add_to(commands: Commands) -> None:
    parser = commands.add_parser(
        "run",
        help="train what a config says",
        description="Train one experiment: check config and data, train, log every epoch to MLflow, keep the"
        " best epoch, check that the saved model is the trained one, and register it.",
        epilog=examples(
            "loratrack run projects/clinc/dual.yaml",
            'loratrack run projects/clinc/dual.yaml --set "train.epochs=2; model.lora.rank=8"',
            "loratrack run projects/clinc/dual.yaml --resume auto",
            codes=CODES,
        ),
    )
    parser.add_argument("config", help="a YAML file, such as projects/clinc/dual.yaml")
    add_settings_to(parser, "train.epochs=2")
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="never",
        help="auto: go on with a run of exactly this config and data that was stopped or killed, if there is"
        " one; never: begin a new run (the default)",
    )
    parser.add_argument(
        "--json", action="store_true", help="the result as JSON; everything else goes to the error stream"
    )
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.experiments.loading import load_run
    from loratrack.tracking.failures import told_to_mlflow

    with told_to_mlflow(), loading():
        config = load_run(arguments.config, arguments.set)
        from loratrack.experiments.checking import check

        corpus = check(config)
        from loratrack.cli.progress import ProgressBar
        from loratrack.config.layers import separated
        from loratrack.experiments.resumption import run_or_resume

    screen = console(beside_the_answers=arguments.json)
    with told_to_mlflow(), ProgressBar(screen) as bar:
        result = run_or_resume(config, bar, corpus, separated(arguments.set), arguments.resume)
    return end(result, screen, as_json=arguments.json)


def end(result: Training, screen: Console, *, as_json: bool) -> int:
    """What came of a run, and the exit code of the process."""
    if as_json:
        print_json(result.facts())
    if result.status != "FINISHED":  # a notice has said why, and where
        again = f"go on with: loratrack resume {result.run_id}"
        screen.print("the same command begins again" if result.stopped_at is None else again)
    elif not as_json:
        screen.print(scores(result))
        for line in summary(result):
            screen.print(line)
    return result.exit_code


def summary(result: Training) -> list[str]:
    """The best epoch, where everything is, and what to do next."""
    from loratrack.experiments.verdict import against_baseline

    config = result.config
    texts = '--text "…"' if len(config.text_columns) == 1 else "--file in.csv"
    chosen_by = config.best_metric or "save_strategy: last"
    compared = against_baseline(config, result.metrics)
    at_step = f", at step {result.metrics['best_step']:.0f}," if "best_step" in result.metrics else ""
    lines = [
        f"best epoch   {result.best_epoch}{at_step} of {len(result.epochs)} (by {chosen_by})",
        *([f"baseline     {compared}"] if compared else []),
        f"run          {result.run_id}",
        f"artifacts    {result.artifact_uri}",
        f"model        {result.model}",
        *view(result.link),
        f"predict      loratrack predict --model {shlex.quote(result.model)} {texts}",
    ]
    if not result.is_sent:
        lines.append("the tracking store does not answer: send the rest with loratrack sync")
    return lines


def scores(result: Training) -> Table:
    from rich.table import Table
    from rich.text import Text

    config = result.config
    table = Table(title=Text(config.exp_id))
    for heading in ("task", "validation accuracy", "validation F1", "test accuracy", "test F1"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    prefixes = {f"{task}_": task for task in config.tasks} | {"avg_": "average"}
    for prefix, name in prefixes.items() if len(config.tasks) > 1 else [("", config.tasks[0])]:
        names = [f"{kind}_{prefix}{measure}" for kind in ("best", "test") for measure in ("accuracy", "f1")]
        values = [result.metrics.get(metric) for metric in names]
        table.add_row(Text(name), *("–" if value is None else f"{value:.4f}" for value in values))
    return table
