"""The child runs of a parent: which are still RUNNING, and how to end those whose process is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from loratrack.store import process
from loratrack.store.client import answering, connect, pages


@dataclass(frozen=True)
class Child:
    run_id: str
    name: str
    is_gone: bool | None
    """Whether the process that began it has ended; None where this cannot be told from here."""


def running(parent_run_id: str) -> list[Child]:
    """The children that the tracking store holds for RUNNING."""
    client = connect()
    condition = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and attributes.status = 'RUNNING'"
    with answering():
        experiment_id = client.get_run(parent_run_id).info.experiment_id
        runs = pages(lambda token: client.search_runs([experiment_id], condition, page_token=token))
        infos = [(run.info.run_id, run.info.run_name, run.data.tags) for run in runs]
        return [Child(run_id, name, process.is_gone(tags)) for run_id, name, tags in infos]


def end(run_id: str, status: Literal["FINISHED", "KILLED", "FAILED"], reason: str) -> None:
    """End a run for a process that no longer can."""
    client = connect()
    with answering():
        client.set_tag(run_id, "ended_because", reason)
        client.set_terminated(run_id, status)
