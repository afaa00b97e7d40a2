"""The front door of Python: what the command line can do, a program can do, with objects instead of prints.

import loratrack as lt

config = lt.load("projects/clinc/dual.yaml", "train.epochs=2")
lt.check(config)["tokens"]                              # what a training would see; UserError: what is wrong
result = lt.train(config)                               # result.run_id, .metrics, .version, .notices
classify = lt.Classifier("models:/clinc@champion")
classify(["will it rain tomorrow"])                     # [{"domain": Prediction(...), "intent": ...}]
lt.runs("avg_f1>0.9", sort_by="avg_f1").to_pandas()
lt.promote("clinc/3", if_="avg_f1 not worse than champion")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loratrack.config import RunConfig
from loratrack.config.sweep import SweepConfig
from loratrack.errors import UserError
from loratrack.experiments import checking
from loratrack.experiments.loading import load_any
from loratrack.experiments.promotion import Promotion, rollback
from loratrack.experiments.promotion import promote as _promote
from loratrack.experiments.result import Result, Sweep, Training
from loratrack.experiments.watcher import Lines, Watcher
from loratrack.index.opened import open_tables
from loratrack.index.run_list import RunList
from loratrack.index.search import search
from loratrack.registry import promotion
from loratrack.registry.events import Event

if TYPE_CHECKING:
    from loratrack.experiments.classifier import Classifier
    from loratrack.experiments.reproduction import Reproduction

__all__ = [
    "Classifier",
    "Lines",
    "Promotion",
    "Reproduction",
    "Result",
    "RunList",
    "Sweep",
    "Training",
    "UserError",
    "Watcher",
    "check",
    "history",
    "load",
    "promote",
    "reproduce",
    "resume",
    "rollback",
    "runs",
    "sweep",
    "train",
]


def load(path: str | Path, *settings: str) -> RunConfig:
    """The config at `path` with its parents and `settings` such as `train.epochs=2`, checked.

    A SweepConfig where the file has a `sweep` section. UserError tells all problems at once.
    """
    return load_any(path, settings)


def check(config: RunConfig | str | Path) -> dict[str, Any]:
    """What a training or a sweep of this config would see, as `loratrack check --json` shows it.

    Nothing is trained and no run is made. UserError tells all problems at once.
    """
    if not isinstance(config, RunConfig):
        config = load(config)
    from loratrack.experiments.preview import preview

    return preview(config)


def train(
    config: RunConfig | str | Path,
    *,
    watcher: Watcher | None = None,
    resume: Literal["auto", "never"] = "never",
) -> Training:
    """Train, log, check and register; `watcher=Lines()` prints what happens on the way.

    `resume="auto"`: go on with a run of exactly this config and data that was stopped or killed, if any.
    UserError: the training cannot be begun, or failed in a way that the user can mend.
    """
    if not isinstance(config, RunConfig):
        config = load(config)
    if isinstance(config, SweepConfig):
        raise UserError(f"{config.exp_id}: has a `sweep` section; start it with loratrack.sweep(config)")
    if resume not in ("auto", "never"):
        raise UserError(f"resume: must be 'auto' or 'never', got {resume!r}; a run goes on with resume(run)")
    corpus = checking.check(config)
    from loratrack.experiments.resumption import run_or_resume

    return run_or_resume(config, watcher, corpus, resume=resume)


def resume(
    run: str,
    *,
    force: bool = False,
    end: bool = False,
    watcher: Watcher | None = None,
    trust_remote_code: str | None = None,
) -> Training:
    """Go on with a run that was stopped or killed, from its last checkpoint and to the bit.

    `run`: its id or the beginning of it, or an exp_id. `force`: also where packages, machine, data or base
    have changed. `end`: train no more; the best epoch so far becomes its model. `trust_remote_code`: the
    sha256 of the base, where the run needs code that the base brings.
    """
    from loratrack.experiments import resumption

    return resumption.resume(run, force=force, end=end, watcher=watcher, trust_remote_code=trust_remote_code)


def sweep(config: SweepConfig | RunConfig | str | Path, *, watcher: Watcher | None = None) -> Sweep:
    """Train trials until the sweep is over; other processes may work on it at the same time."""
    if not isinstance(config, RunConfig):
        config = load(config)
    if not isinstance(config, SweepConfig):
        raise UserError(f"{config.exp_id}: has no `sweep` section; start it with loratrack.train(config)")
    corpus = checking.check(config)
    from loratrack.experiments import sweep as sweeps

    return sweeps.sweep(config, watcher, corpus)


def runs(filter: str | None = None, *, sort_by: str | None = None, limit: int = 1000) -> RunList:
    """The runs for which `filter` holds, in the language of `loratrack compare --filter`.

    The newest first, or the best first by the metric `sort_by`.
    """
    with open_tables() as tables:
        result = search(tables, filter_text=filter, sort_by=sort_by, limit=limit)
    return RunList(tuple(result.runs), result.total)


def promote(
    version: str,
    *,
    model: str | None = None,
    to: str = promotion.CHAMPION,
    why: str = "",
    if_: str | None = None,
    expect: int | None = None,
    trust_remote_code: str | None = None,
) -> Promotion:
    """Make a version champion (or challenger), once it was loaded and found to be what was trained.

    `if_` refuses unless it holds: `avg_f1>=0.93 and intent_f1 not worse than champion by 0.005`.
    `trust_remote_code`: the sha256 of the base, where the model needs code that the base brings.
    """
    return _promote(
        version,
        model=model,
        to=to,
        why=why,
        condition=if_,
        expect=expect,
        trust_remote_code=trust_remote_code,
    )


def reproduce(
    run: str,
    *,
    check: bool = False,
    watcher: Watcher | None = None,
    trust_remote_code: str | None = None,
) -> Reproduction:
    """Train once more from what a run has kept; `check` compares every metric of every epoch.

    `run`: its id or the beginning of it, or an exp_id for its newest run.
    `trust_remote_code`: the sha256 of the base, where the run needs code that the base brings.
    """
    from loratrack.experiments import reproduction

    return reproduction.reproduce(run, check=check, watcher=watcher, trust_remote_code=trust_remote_code)


def history(model: str) -> list[Event]:
    """Every move of the model's aliases, the oldest first."""
    return promotion.history(model)


def __getattr__(name: str) -> Any:
    """What opens torch is imported when it is asked for: a question about runs does not wait for it."""
    if name == "Classifier":
        from loratrack.experiments.classifier import Classifier

        return Classifier
    if name == "Reproduction":
        from loratrack.experiments.reproduction import Reproduction

        return Reproduction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
