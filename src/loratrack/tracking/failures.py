"""Why a run failed, on the run itself.

with told_to_mlflow():             # `mlflow run` has made a run already, which fails with what is raised here
    config = load_run(file)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from loratrack.errors import StoreError, UserError
from loratrack.store.client import ERROR_TAG, answering, connect, use_short_requests
from loratrack.store.secrets import scrub_text

MAX_CHARACTERS = 1000


def shown(reason: str) -> str:
    """As the tag `error` holds it."""
    text = str(scrub_text(reason))  # before it is cut: half a secret has no format
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


@contextmanager
def told_to_mlflow() -> Iterator[None]:
    """Keep what is wrong before our part of the run has begun."""
    try:
        yield
    except UserError as error:
        if run_id := os.environ.get("MLFLOW_RUN_ID"):
            use_short_requests()
            with suppress(StoreError), answering():
                connect().set_tag(run_id, ERROR_TAG, shown(str(error)))
        raise
