"""A version for a run that has none: the store was away at its end, it was killed, or `register: false`.

register("exp_v2")            # "clinc/4"
register("0a1b2c", "intents")
"""

from __future__ import annotations

from loratrack.errors import RefusedError, UserError
from loratrack.experiments.recording import version_tags
from loratrack.places import PYFUNC
from loratrack.registry import lookup
from loratrack.store import secrets
from loratrack.store.client import answering, connect, names_of_files
from loratrack.store.place import tracking_uri
from loratrack.store.relocation import follow
from loratrack.tracking import registration

SCORES = ("best_", "test_")
"""The metrics that a version carries as tags."""


def register(run: str, name: str | None = None) -> str:
    """`NAME/NUMBER` of the version that is this run's model, made where there is none yet.

    `run` is an id, the beginning of one, or an exp_id; `name` is by default that of the run's project. A run
    counts as complete when it has kept its model, whatever became of its process afterwards.
    """
    stored = lookup.run_of(run)
    about = f"run {stored.info.run_id} ({stored.info.status})"
    name = name or stored.data.tags.get("project")
    if not name:
        raise UserError(f"--name: must say the registered model's name, for {about} tells no project")
    follow(tracking_uri())
    with answering():
        if PYFUNC not in names_of_files(stored):
            raise RefusedError(
                f"{about}: has kept no model to register; if its files wait here, loratrack sync sends them"
            )
        scores = {metric: value for metric, value in stored.data.metrics.items() if metric.startswith(SCORES)}
        tags = version_tags(stored.data.tags.get("exp_id", ""), scores)
        number = registration.register(connect(), stored.info.run_id, name, secrets.scrub_values(tags))
    return f"{name}/{number}"
