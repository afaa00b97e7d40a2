"""What MLflow's page of a version says: scores, what it was made of, how to promote it, since when it serves.

MLflow's own button *Promote model* moves an alias without a look at the model, so the page names the command.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from loratrack.metrics import MAIN_SCORES
from loratrack.registry.events import Event
from loratrack.registry.versions import Model
from loratrack.store.client import fault_text

log = logging.getLogger(__name__)

TASK = re.compile(r"best_((.+)_)?f1")
STATE = re.compile(r"(Champion|Challenger) (since|until) [^\n]*\n\n")
"""The line of a page that a move has written; MLflow's list of versions shows it as it is."""
HOW_TO_PROMOTE = re.compile(r"\n\nPromote it with `loratrack promote [^\n]*")
"""The last line of a page, but for the champion's."""


def tags(exp_id: str, metrics: Mapping[str, float]) -> dict[str, str]:
    """The few that tell versions apart in a list."""
    scores = {name: f"{metrics[name]:.4f}" for name in MAIN_SCORES if name in metrics}
    return {"exp_id": exp_id, **scores}


def about(run_id: str, description: str, metrics: Mapping[str, float]) -> str:
    """The description of a version, in Markdown."""
    lines = []
    for found in filter(None, map(TASK.fullmatch, metrics)):
        words = []
        for title, measure in (("F1", "f1"), ("accuracy", "accuracy")):
            value, test = (metrics.get(f"{kind}_{found[1] or ''}{measure}") for kind in ("best", "test"))
            if value is not None:
                words.append(f"{title} {value:.4f}" + ("" if test is None else f" (test {test:.4f})"))
        lines.append(f"- {found[2] or 'label'}: {', '.join(words)}")
    return "\n\n".join([description, *(["\n".join(lines)] if lines else [])]) + _how_to_promote(run_id)


def _how_to_promote(run_id: str) -> str:
    return (
        f"\n\nPromote it with `loratrack promote {run_id[:12]}`: the model is loaded and must give the logits"
        " of its training. The button *Promote model* does not check that."
    )


def tell(model: Model, event: Event) -> None:
    """The pages of the versions that a move was from and to say so. The move stands whatever comes of it."""
    from mlflow.exceptions import MlflowException

    when = datetime.fromtimestamp(event.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    why = f": {event.why}" if event.why else ""
    alias = (event.alias or "").capitalize()
    states = {
        event.before: f"{alias} until {when}.",
        event.after: f"{alias} since {when}, by {event.who}{why}.",
    }
    for version, state in states.items():
        if version is not None:
            try:
                page = model.version(version)
                text = HOW_TO_PROMOTE.sub("", STATE.sub("", page.description or "", count=1), count=1)
                is_champion = state.startswith("Champion since")
                how = "" if is_champion or not page.run_id else _how_to_promote(page.run_id)
                model.describe(version, f"{state}\n\n{text}{how}")
            except MlflowException as error:
                log.warning("%s/%d: its page is as before: %s", model.name, version, fault_text(error))
