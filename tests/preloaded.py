"""What the parent of `tests/forks.py` imports: all that a run needs, and nothing that starts a thread."""

import threading

import git  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import optuna  # noqa: F401

import loratrack.cli
import loratrack.experiments.resumption
import loratrack.views.machine  # noqa: F401

assert threading.active_count() == 1, threading.enumerate()
