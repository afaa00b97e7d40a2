"""Whether a run's model becomes a version of a registered model, and how one does that has none yet.

choose(config, run_id, metrics, rows)     # register: best, and the newest version is better: not registered
register("exp_v2")                        # "clinc/4"
register("0a1b2c", "intents")
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratrack.config import RunConfig, files
from loratrack.errors import RefusedError, StoreError, UserError
from loratrack.experiments.verdict import LEARNED_NOTHING
from loratrack.metrics import is_better
from loratrack.places import CONFIG_COPY, PYFUNC
from loratrack.registry import lookup, pages
from loratrack.registry.lookup import SAME_ROWS
from loratrack.registry.versions import Model
from loratrack.store import secrets
from loratrack.store.client import DESCRIPTION, Run, answering, connect, names_of_files
from loratrack.store.place import tracking_uri
from loratrack.store.relocation import follow
from loratrack.tracking import artifacts, registration

SCORES = ("best_", "test_")
"""The metrics that a version's page shows."""


@dataclass(frozen=True)
class Choice:
    is_registered: bool
    why: str = ""
    """What to say to the user, if anything."""


def choose(
    config: RunConfig,
    run_id: str,
    metrics: Mapping[str, float],
    validation_sha256: str,
    has_learned: bool = True,
) -> Choice:
    """Whether this run's model becomes a version, as `register` says.

    `best`: its score on the validation rows must beat that of the newest version that was scored on the same
    rows, if there is any. A run that has learned nothing becomes one only where a name without `best:`
    stands.
    """
    model = config.registered_model
    if model is None:
        return Choice(False)
    anyway = f"loratrack register {run_id} makes a version all the same"
    is_named = config.register_as is not True and not config.registers_best
    if not has_learned and not is_named:
        return Choice(False, f"not registered, for it learned nothing; {anyway}")
    if not config.registers_best:
        return Choice(True)
    metric = f"best_{config.main_metric}"
    own = metrics.get(metric)
    try:
        with answering():
            is_first = Model(connect(), model).newest() is None
        found = lookup.newest_scored(model, validation_sha256, metric)
    except StoreError as error:
        return Choice(
            False, f"not registered: register: best asks for the versions of {model}; {error}; {anyway}"
        )
    if is_first:
        return Choice(True, f"register: best: {model} has no version yet, so this is the first")
    if found is None or own is None:
        return Choice(
            True,
            f"register: best: no version of {model} has {metric} on the same rows, so this one is made"
            " without a comparison",
        )
    other, theirs = found
    if is_better(metric, own, theirs):
        return Choice(True, f"register: best: {metric} {own:.4f} beats {theirs:.4f} of {other}")
    return Choice(
        False, f"not registered: {metric} {own:.4f} does not beat {theirs:.4f} of {other}; {anyway}"
    )


def choose_stored(config: RunConfig, run_id: str) -> Choice:
    """The same for a run that is over, from what the tracking store has of it."""
    try:
        with answering():
            data = connect().get_run(run_id).data
    except StoreError as error:  # what it has learned and how well nobody knows now
        if config.registers_best:
            return Choice(False, f"not registered: {error}; loratrack register {run_id} does it later")
        return Choice(config.registered_model is not None)
    return choose(
        config, run_id, data.metrics, data.tags.get(SAME_ROWS, ""), LEARNED_NOTHING not in data.tags
    )


def register(run: str, name: str | None = None) -> str:
    """`NAME/NUMBER` of the version that is this run's model, made where there is none yet.

    `run` is an id, the beginning of one, or an exp_id; `name` is by default the one that `register` of the
    run's config says, else that of its project. A run counts as complete when it has kept its model, whatever
    became of its process afterwards.
    """
    stored = lookup.run_of(run)
    about = f"run {stored.info.run_id} ({stored.info.status})"
    follow(tracking_uri())
    name = name or _said_by_config(stored) or stored.data.tags.get("project")
    if not name:
        raise UserError(f"--name: must say the registered model's name, for {about} tells no project")
    with answering():
        if PYFUNC not in names_of_files(stored):
            raise RefusedError(
                f"{about}: has kept no model to register; if its files wait here, loratrack sync sends them"
            )
        scores = {metric: value for metric, value in stored.data.metrics.items() if metric.startswith(SCORES)}
        tags = pages.tags(stored.data.tags.get("exp_id", ""), scores)
        text = pages.about(stored.info.run_id, stored.data.tags.get(DESCRIPTION, ""), scores)
        shown = secrets.scrub_values(tags)
        number = registration.register(
            connect(), stored.info.run_id, name, shown, str(secrets.scrub_text(text))
        )
    return f"{name}/{number}"


def _said_by_config(stored: Run) -> str | None:
    """The registered model of the config that the run has kept."""
    with tempfile.TemporaryDirectory() as folder:
        kept = artifacts.fetch(stored, [CONFIG_COPY], Path(folder))
        return files.load(kept[CONFIG_COPY]).registered_model if kept else None
