"""The child runs of a parent: which are still RUNNING, and how those end whose process is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from loratrack.errors import StoreError
from loratrack.store import secrets
from loratrack.store.client import connect
from loratrack.store.place import store_name

PAGE = 1000


@dataclass(frozen=True)
class Child:
    run_id: str
    name: str


def running(parent_run_id: str) -> list[Child]:
    """The children that the tracking store holds for RUNNING."""
    client = connect()
    try:
        experiment = client.get_run(parent_run_id).info.experiment_id
        found: list[Child] = []
        page: Any = None
        while page is None or page.token:
            page = client.search_runs(
                [experiment],
                f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and attributes.status = 'RUNNING'",
                ViewType.ACTIVE_ONLY,
                PAGE,
                page_token=None if page is None else page.token,
            )
            found += [Child(run.info.run_id, run.info.run_name) for run in page]
    except MlflowException as error:
        raise _fault(error) from error
    return found


def end(run_id: str, status: Literal["KILLED", "FAILED"], reason: str) -> None:
    """End a run in the name of a process that cannot do it any more."""
    client = connect()
    try:
        client.set_tag(run_id, "ended_because", reason)
        client.set_terminated(run_id, status)
    except MlflowException as error:
        raise _fault(error) from error


def _fault(error: MlflowException) -> StoreError:
    return StoreError(
        f"{store_name()}: the tracking store must answer, got: {secrets.scrub_text(str(error))}"
    )
