"""What runs have left in a store, read from its files alone: none of our own code takes part."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASURED = "system/"
"""Metrics of a clock or a meter, which differ each time."""


@dataclass(frozen=True)
class Learned:
    """What two trainings that are the same have in common, to the last bit."""

    metrics: dict[tuple[str, int], float]
    """In MLflow, by key and step."""
    scores: dict[str, dict[str, float]]
    """In `metrics.json`."""
    weights: dict[str, str]
    """sha256 of each file of tensors."""


def learned(store: Path, run_id: str) -> Learned:
    folder = artifacts(store, run_id)
    scores = json.loads((folder / "metrics.json").read_bytes())
    return Learned(
        {(key, step): value for key, step, value in metrics(store, run_id) if not key.startswith(MEASURED)},
        {
            place: {key: value for key, value in values.items() if not key.startswith(MEASURED)}
            for place, values in scores.items()
        },
        {
            path.relative_to(folder).as_posix(): sha256(path)
            for path in sorted(folder.rglob("*.safetensors"))
            if "pyfunc" not in path.parts
        },
    )


def metrics(store: Path, run_id: str) -> list[tuple[str, int, float]]:
    return ask(store, "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step", run_id)


def doubled(store: Path) -> list[Any]:
    """Run, key and step of every metric that MLflow has more than once."""
    return ask(
        store, "SELECT run_uuid, key, step FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1"
    )


def statuses(store: Path) -> dict[str, str]:
    """Of all runs, the oldest first."""
    return dict(ask(store, "SELECT run_uuid, status FROM runs ORDER BY start_time"))


def versions(store: Path) -> list[str]:
    """The run of each registered version."""
    return [run_id for (run_id,) in ask(store, "SELECT run_id FROM model_versions ORDER BY version")]


def artifacts(store: Path, run_id: str) -> Path:
    [(uri,)] = ask(store, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
    return Path(uri)


def leftovers(store: Path) -> list[str]:
    """What should be gone when all runs are finished."""
    folders = (store / "checkpoints", store / "work", store / "outbox" / "spool")
    return [str(path.relative_to(store)) for folder in folders for path in sorted(folder.glob("*"))]


def checkpoints(store: Path) -> list[Path]:
    """All that can be seen, of all runs."""
    return [path for path in sorted(store.glob("checkpoints/*/attempt-*-step-*")) if path.is_dir()]


def is_trained(checkpoint: Path) -> bool:
    """Whether it was made when the training was over."""
    return bool(json.loads((checkpoint / "manifest.json").read_bytes())["about"]["is_trained"])


def fault_of(checkpoint: Path) -> str | None:
    """Why it is not whole, by its manifest; None where it is."""
    text = (checkpoint / "manifest.json").read_bytes()
    if not checkpoint.name.endswith(hashlib.sha256(text).hexdigest()[:16]):
        return f"{checkpoint}: the name is not of this manifest"
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != "manifest.json"]
    present = {path.relative_to(checkpoint).as_posix(): sha256(path) for path in files}
    return None if json.loads(text)["files"] == present else f"{checkpoint}: its files are not as it says"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ask(store: Path, query: str, *values: str) -> list[Any]:
    with closing(sqlite3.connect(store / "mlflow.db", timeout=30)) as database:
        return database.execute(query, values).fetchall()
