"""`loratrack reproduce RUN|EXP`: a run once more, from what it has kept, beside the first one."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loratrack.cli import run as runs
from loratrack.cli.promote import EXIT_CODES
from loratrack.config import RunConfig, load
from loratrack.errors import RefusedError, UserError
from loratrack.experiments import recording
from loratrack.experiments.recording import CONFIG_COPY, WriterLog
from loratrack.places import BUNDLE

if TYPE_CHECKING:
    from loratrack.experiments.differences import Difference

ENVIRONMENT, METRICS, REPORT = "env_info.json", "metrics.json", "data_report.json"
UNEQUAL = 1
MAX_SHOWN = 10


@dataclass(frozen=True)
class First:
    """The run that is repeated."""

    run: Any
    config: RunConfig
    """With what was found or measured for it in the place of `auto`."""
    contents: Mapping[str, Any]
    """Its JSON files, by name."""

    @property
    def run_id(self) -> str:
        return str(self.run.info.run_id)


def add_to(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "reproduce",
        help="train a run once more and compare",
        description="Train from the settings that a run has kept, as a new run with the tag `reproduces`;"
        " what is different around it is shown first.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("run", metavar="RUN|EXP", help="a run's id or its beginning, or an exp_id")
    parser.add_argument(
        "--check", action="store_true", help="say whether every epoch's metrics are equal; 1 when not"
    )
    parser.add_argument("--json", action="store_true", help="what came of it as JSON")
    parser.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    import torch  # before the environment is looked at: it tells the threads

    from loratrack.registry import lookup

    console = Console(soft_wrap=True, stderr=arguments.json)
    first = _first(lookup.run_of(arguments.run))
    if first.config.train.threads is not None:
        torch.set_num_threads(first.config.train.threads)
    differences = _differences(first)
    _show(console, f"around run {first.run_id}", differences, "nothing is different")
    run_id, epochs, code = _train(first, differences, console)
    content: dict[str, Any] = {
        "reproduces": first.run_id,
        "run_id": run_id,
        "differences": [str(difference) for difference in differences],
    }
    if arguments.check and code == 0:
        content["check"], code = _check(first, epochs, differences, console)
    if arguments.json:
        Console(soft_wrap=True).out(json.dumps(content, ensure_ascii=False, indent=1), highlight=False)
    return code


def _first(run: Any) -> First:
    from loratrack.tracking import artifacts

    with tempfile.TemporaryDirectory() as folder:
        names = (CONFIG_COPY, BUNDLE, ENVIRONMENT, METRICS, REPORT)
        files = artifacts.fetch(run, names, Path(folder))
        missing = [name for name in (CONFIG_COPY, ENVIRONMENT, METRICS) if name not in files]
        if missing:
            raise RefusedError(
                f"run {run.info.run_id} ({run.info.status}): has not kept {', '.join(missing)},"
                " so it cannot be repeated"
            )
        contents = {
            name: json.loads(file.read_text("utf-8")) for name, file in files.items() if name != CONFIG_COPY
        }
        return First(run, _as_it_was(load(files[CONFIG_COPY]), contents), contents)


def _as_it_was(config: RunConfig, contents: Mapping[str, Any]) -> RunConfig:
    """Nothing is measured or chosen anew, and no version is made."""
    bundle, threads = contents.get(BUNDLE, {}), contents[ENVIRONMENT].get("torch", {}).get("threads")
    found = {name: bundle[name] for name in ("layout", "precision") if name in bundle}
    if threads is not None and threads <= (os.cpu_count() or 1):
        found["threads"] = threads
    train = config.train.model_copy(update=found)
    return config.model_copy(update={"train": train, "register_as": False})


def _differences(first: First) -> list[Difference]:
    from loratrack import data
    from loratrack.bases import base as bases
    from loratrack.experiments.differences import Difference, environment_differences
    from loratrack.index.search import PARENT_TAG
    from loratrack.tracking.environment import environment

    config, tags = first.config, first.run.data.tags
    corpus = data.read(config)
    report = first.contents.get(REPORT, {}).get("files", {})
    pairs = [
        (f"{setting} ({sha256[:12]})", report[setting]["sha256"], sha256)
        for setting, sha256 in corpus.files_sha256.items()
        if setting in report
    ]
    pairs.append(("data", tags.get("data_sha256", "unknown"), corpus.sha256))
    base = bases.resolve(config.model.arch, trust_remote_code=config.model.trust_remote_code)
    then = first.contents.get(BUNDLE, {}).get("base", {})
    pairs.append(("base", then.get("sha256", tags.get("base_sha256", "unknown")), base.sha256))
    pairs.append(("tokenizer", then.get("tokenizer_sha256", base.tokenizer_sha256), base.tokenizer_sha256))
    found = [Difference(what, old[:12], new[:12]) for what, old, new in pairs if old != new]
    if PARENT_TAG in tags:
        # The same sums in products of another size: equal but for their last bits.
        found.append(Difference("trained", "beside the other trials of its sweep", "alone"))
    return [*found, *environment_differences(first.contents[ENVIRONMENT], environment())]


def _train(
    first: First, differences: Sequence[Difference], console: Console
) -> tuple[str, dict[int, dict[str, float]], int]:
    """The new run, its epochs, and the exit code."""
    from loratrack.experiments.differences import REPRODUCES
    from loratrack.experiments.interrupt import interruptible

    with interruptible() as interruption:
        writer = recording.start(first.config)
        project = first.run.data.tags.get("project", "")
        writer.set_tags({REPRODUCES: first.run_id, **({"project": project} if project else {})})
        console.print(f"{first.config.exp_id}: run {writer.run_id}", highlight=False)
        log = WriterLog(writer, lambda text: console.print(text, highlight=False, markup=False))
        for difference in differences:
            log.notices.append(f"different from run {first.run_id}: {difference}")
        with recording.failing(writer), recording.work_folder(writer.run_id) as work:
            prepared, member, outcome = runs.train_one(first.config, log, work, console, interruption)
            recording.keep(prepared, member, outcome, log, work)
            if member.status == "failed":
                raise UserError(f"{first.config.exp_id}: {member.reason}")
            is_ended = interruption.signal is not None
            writer.finish("KILLED" if is_ended else "FINISHED")
    code = 128 + interruption.signal if interruption.signal is not None else 0
    return writer.run_id, dict(enumerate(map(dict, member.history), start=1)), code


def _check(
    first: First, epochs: dict[int, dict[str, float]], around: Sequence[Difference], console: Console
) -> tuple[dict[str, Any], int]:
    from loratrack.experiments import differences

    exact = differences.is_exact(around, first.contents[ENVIRONMENT])
    then = differences.epochs_of(first.contents[METRICS])
    is_whole = first.run.info.status == "FINISHED"
    unequal = differences.metric_differences(then, epochs, exact=exact, is_whole=is_whole)
    how = "to the bit" if exact else f"within {differences.TOLERANCE}, since what counts is different"
    title = f"check of {len(then)} epochs, {how}"
    _show(console, title, unequal, "every metric of every epoch is equal")
    content = {
        "equal": not unequal,
        "exact": exact,
        "tolerance": 0.0 if exact else differences.TOLERANCE,
        "epochs": len(then),
        "unequal": [str(difference) for difference in unequal],
    }
    return content, UNEQUAL if unequal else 0


def _show(console: Console, title: str, differences: Sequence[Difference], none: str) -> None:
    lines = [f"  {difference}" for difference in differences[:MAX_SHOWN]] or [f"  {none}"]
    if len(differences) > MAX_SHOWN:
        lines.append(f"  and {len(differences) - MAX_SHOWN} more")
    for line in [f"{title}:", *lines]:
        console.print(line, highlight=False, markup=False)
