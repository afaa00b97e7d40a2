"""One run, with all that is kept of it: epochs, datasets, files, environment and notices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratrack.index.naming import find, newer
from loratrack.index.runs import ONLY_LATEST, RunSummary, StoredRun, in_full
from loratrack.index.tables import Dataset, Tables
from loratrack.metrics import SCORE
from loratrack.places import ENVIRONMENT, NOTICES, artifact_folder
from loratrack.store.client import answering, connect, fetching
from loratrack.store.relocation import here

TRIAL = "trial/"
"""How the metrics begin that a sweep logs of each trial, at the step of its number."""
EPOCH_AREAS = ("train/", "validation/", "system/epoch_seconds", "time/epoch_seconds", TRIAL)
"""What the table of epochs holds besides the scores; earlier versions logged `time/…`."""


@dataclass(frozen=True)
class Detail:
    run: StoredRun
    epochs: Mapping[int, Mapping[str, float]]
    datasets: tuple[Dataset, ...]
    artifact_uri: str
    artifacts: tuple[str, ...]
    """Files and folders at the top; a folder ends in `/`."""
    environment: Mapping[str, object] | None
    notices: tuple[str, ...]
    newer: RunSummary | None = None
    """A run of the same exp_id that was begun later, where the exp_id was asked for."""

    @property
    def best_epoch(self) -> int | None:
        epoch = self.run.metrics.get("best_epoch")
        return None if epoch is None else int(epoch)


def detail(tables: Tables, text: str) -> Detail:
    """All of the run that `find` finds."""
    summary = find(tables, text)
    if tables.renew([summary.run_id]):
        summary = find(tables, text)
    [run] = in_full(tables, [summary])

    names = [
        name
        for name in run.metrics
        if name.startswith(EPOCH_AREAS) or (SCORE.fullmatch(name) and not name.startswith(ONLY_LATEST))
    ]
    tables.need_history([summary.run_id], names)
    keys = {f"key{number}": name for number, name in enumerate(names)}
    rows = tables.rows(
        f"SELECT m.step, m.key, m.value FROM metrics m WHERE m.run_uuid = :run AND NOT m.is_nan"
        f" AND m.key IN ({', '.join(f':{key}' for key in keys) or 'NULL'}) ORDER BY m.timestamp",
        run=summary.run_id,
        **keys,
    )
    epochs: dict[int, dict[str, float]] = {}
    for step, key, value in rows:  # in the order of time: a value logged again replaces the earlier one
        epochs.setdefault(int(step), {})[key] = value

    [(uri,)] = tables.rows("SELECT r.artifact_uri FROM runs r WHERE r.run_uuid = :run", run=summary.run_id)
    uri = here(uri)
    files = _files(summary.run_id, uri)
    environment = files.text(ENVIRONMENT)
    return Detail(
        run,
        dict(sorted(epochs.items())),
        tuple(tables.datasets(summary.run_id)),
        uri,
        tuple(files.names()),
        _mapping(environment),
        tuple((files.text(NOTICES) or "").splitlines()),
        newer(tables, summary) if text == summary.exp_id else None,
    )


def kept_text(detail: Detail, name: str) -> str | None:
    """A file that the run has kept; None where it has none of this name."""
    return _files(detail.run.summary.run_id, detail.artifact_uri).text(name)


def _files(run_id: str, uri: str) -> _LocalFiles | _StoredFiles:
    folder = artifact_folder(uri)
    return _StoredFiles(run_id, uri) if folder is None else _LocalFiles(folder)


@dataclass(frozen=True)
class _LocalFiles:
    folder: Path

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(f"{path.name}/" if path.is_dir() else path.name for path in self.folder.iterdir())

    def text(self, name: str) -> str | None:
        file = self.folder / name
        return file.read_text("utf-8", "replace") if file.is_file() else None


@dataclass(frozen=True)
class _StoredFiles:
    """Behind a server, or in a bucket; MLflow knows how to get there."""

    run_id: str
    uri: str

    def names(self) -> list[str]:
        with answering(), fetching(self.uri):
            files = connect().list_artifacts(self.run_id)
        return sorted(f"{file.path}/" if file.is_dir else file.path for file in files)

    def text(self, name: str) -> str | None:
        from mlflow.artifacts import load_text

        if name not in self.names():
            return None
        with answering(), fetching(self.uri):
            return str(load_text(f"{self.uri}/{name}"))


def _mapping(text: str | None) -> dict[str, object] | None:
    """What `env_info.json` holds; None where it holds something else, as a damaged one does."""
    try:
        content = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def tasks(names: Sequence[str]) -> dict[str, str]:
    """What the metrics of each task begin with, by the name to show; the average comes last."""
    prefixes = dict.fromkeys(str(match[1] or "") for name in names if (match := SCORE.fullmatch(name)))
    by_name = {prefix.removesuffix("_") or "label": prefix for prefix in prefixes if prefix != "avg_"}
    return by_name | ({"average": "avg_"} if "avg_" in prefixes else {})
