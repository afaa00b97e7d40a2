"""`loratrack sweep CONFIG`: many trials on one base, the best of them registered; and what came of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loratrack.cli import recording
from loratrack.config import flat, plain
from loratrack.config.sweep import SweepConfig, load_sweep

if TYPE_CHECKING:
    from loratrack.sweep.study import Search
    from loratrack.tracking.runs import Run

DATABASE, LOCK = "optuna.db", ".optuna.lock"


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "sweep",
        help="search for the best settings",
        usage="loratrack sweep CONFIG [--set KEY=VALUE]\n       loratrack sweep show NAME [--plot DIR]",
    )
    parser.add_argument("config", help="a YAML file with a `sweep` section; or the word show")
    parser.add_argument("name", nargs="?", help="for show: the sweep's name")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from loratrack.sweep.checks import check

    console = Console(soft_wrap=True)
    config = load_sweep(arguments.config, arguments.set)
    check(config, arguments.config)
    project = recording.project_name(Path(arguments.config))
    name = project if config.register_as is True else config.register_as
    return sweep(config.model_copy(update={"register_as": name}), console)


def sweep(config: SweepConfig, console: Console) -> int:
    """Work on the sweep until it is over; the exit code is 0, or 128 + the signal that ended it early."""
    from loratrack.cli.sweep_lines import Lines
    from loratrack.cli.trials import Floor
    from loratrack.sweep.study import Search
    from loratrack.tracking import store
    from loratrack.training.interrupt import interruptible

    folder = store.folder()
    folder.mkdir(parents=True, exist_ok=True)
    url = config.sweep.storage or f"sqlite:///{folder / DATABASE}"
    search = Search(
        config, url, folder / LOCK, lambda text: console.print(text, highlight=False, markup=False)
    )
    with interruptible() as interruption:
        parent = _parent(search, config)
        console.print(f"{config.sweep.name}: run {parent.run_id}", highlight=False)
        Floor(search, parent, Lines(console, search), lambda: bool(interruption)).work()
        parent.finish("FINISHED")
    search.close()
    return 0


def _parent(search: Search, config: SweepConfig) -> Run:
    """The run of the sweep, which all its processes share."""
    from loratrack.sweep.study import PARENT
    from loratrack.tracking.runs import Run

    with search.turn():
        known = search.noted(PARENT)
        if known is not None:
            return Run.attach(known)
        settings = flat(plain(config))
        tags = {**recording.tags(config), "sweep": config.sweep.name}
        parent = Run.start(name=config.sweep.name, params=settings, tags=tags)
        search.note(PARENT, parent.run_id)
        return parent
