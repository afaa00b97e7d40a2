"""One run, with everything stored about it: epochs, datasets, files, environment and notices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

from loratrack.errors import RefusedError, UserError, did_you_mean
from loratrack.index.runs import ONLY_LATEST, RunSummary, StoredRun, in_full
from loratrack.index.search import parents, summaries
from loratrack.index.tables import Dataset, Tables
from loratrack.metrics import SCORE
from loratrack.places import ENVIRONMENT, NOTICES
from loratrack.store.client import RUN_ID_PREFIX, answering, connect
from loratrack.store.place import store_name

EPOCH_AREAS = ("train/", "validation/", "time/epoch_seconds")
"""What the table of epochs holds besides the scores."""
MAX_LISTED = 5


@dataclass(frozen=True)
class Detail:
    run: StoredRun
    epochs: Mapping[int, Mapping[str, float]]
    datasets: tuple[Dataset, ...]
    artifact_uri: str
    artifacts: tuple[str, ...]
    """Files and folders at the top; a folder ends in `/`."""
    environment: Mapping[str, Any] | None
    notices: tuple[str, ...]

    @property
    def best_epoch(self) -> int | None:
        found = self.run.metrics.get("best_epoch")
        return None if found is None else int(found)


def find(tables: Tables, wanted: str) -> RunSummary:
    """The run with this id or unique id prefix; else the newest with this exp_id or name, trainings
    before sweeps and chains.

    RefusedError when there is none, UserError when several ids have the prefix.
    """
    named = summaries(
        tables, "AND (r.run_uuid = :wanted OR r.name = :wanted OR x.value = :wanted)", wanted=wanted
    )
    if named:
        parent_ids = parents(tables) - {wanted}
        return next((summary for summary in named if summary.run_id not in parent_ids), named[0])
    if RUN_ID_PREFIX.fullmatch(wanted):
        begun = summaries(
            tables, "AND r.run_uuid > :wanted AND r.run_uuid < :end", wanted=wanted, end=f"{wanted}g"
        )
        if len(begun) > 1:
            listed = ", ".join(f"{summary.run_id} ({summary.exp_id})" for summary in begun[:MAX_LISTED])
            raise UserError(f"{wanted}: must be the beginning of one run's id, got {len(begun)}: {listed}")
        if begun:
            return begun[0]
    every = summaries(tables)
    close = did_you_mean(wanted, {summary.exp_id for summary in every})
    hint = close or "; loratrack compare lists all"
    raise RefusedError(f"{wanted}: no such run or exp_id among {len(every):,} runs in {store_name()}{hint}")


def detail(tables: Tables, wanted: str) -> Detail:
    """All of the run that `find` finds."""
    summary = find(tables, wanted)
    if tables.renew([summary.run_id]):
        summary = find(tables, wanted)
    [run] = in_full(tables, [summary])
    [(uri,)] = tables.rows("SELECT r.artifact_uri FROM runs r WHERE r.run_uuid = :run", run=summary.run_id)
    files = _files(summary.run_id, uri)
    environment = files.text(ENVIRONMENT)
    return Detail(
        run,
        _epochs(tables, run),
        tuple(tables.datasets(summary.run_id)),
        uri,
        tuple(files.names()),
        None if environment is None else json.loads(environment),
        tuple((files.text(NOTICES) or "").splitlines()),
    )


def _epochs(tables: Tables, run: StoredRun) -> dict[int, dict[str, float]]:
    """The last logged value of each metric for each epoch."""
    run_id = run.summary.run_id
    names = [name for name in run.metrics if _is_of_epochs(name)]
    tables.need_history([run_id], names)
    keys = {f"key{number}": name for number, name in enumerate(names)}
    rows = tables.rows(
        f"SELECT m.step, m.key, m.value FROM metrics m WHERE m.run_uuid = :run AND NOT m.is_nan"
        f" AND m.key IN ({', '.join(f':{key}' for key in keys) or 'NULL'}) ORDER BY m.timestamp",
        run=run_id,
        **keys,
    )
    epochs: dict[int, dict[str, float]] = {}
    for step, key, value in rows:
        epochs.setdefault(int(step), {})[key] = value
    return dict(sorted(epochs.items()))


def _is_of_epochs(name: str) -> bool:
    is_score = SCORE.fullmatch(name) is not None and not name.startswith(ONLY_LATEST)
    return is_score or name.startswith(EPOCH_AREAS)


class _Files(Protocol):
    def names(self) -> list[str]: ...

    def text(self, name: str) -> str | None:
        """None where there is no such file."""


def _files(run_id: str, uri: str) -> _Files:
    scheme = urlparse(uri).scheme
    if scheme in ("", "file"):
        return _LocalFiles(Path(unquote(urlparse(uri).path) if scheme else uri))
    return _StoredFiles(run_id, uri)


@dataclass(frozen=True)
class _LocalFiles:
    folder: Path

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(f"{path.name}/" if path.is_dir() else path.name for path in self.folder.iterdir())

    def text(self, name: str) -> str | None:
        file = self.folder / name
        return file.read_text("utf-8") if file.is_file() else None


@dataclass(frozen=True)
class _StoredFiles:
    """Behind a server, or in a bucket; MLflow knows how to get there."""

    run_id: str
    uri: str

    def names(self) -> list[str]:
        with answering():
            found = connect().list_artifacts(self.run_id)
        return sorted(f"{file.path}/" if file.is_dir else file.path for file in found)

    def text(self, name: str) -> str | None:
        from mlflow.artifacts import load_text

        if name not in self.names():
            return None
        with answering():
            return str(load_text(f"{self.uri}/{name}"))


def tasks(names: Sequence[str]) -> dict[str, str]:
    """What the metrics of each task begin with, by the name to show; the average comes last."""
    prefixes = dict.fromkeys(str(match[1] or "") for name in names if (match := SCORE.fullmatch(name)))
    shown = {prefix.removesuffix("_") or "label": prefix for prefix in prefixes if prefix != "avg_"}
    return shown | ({"average": "avg_"} if "avg_" in prefixes else {})
