"""What a run has kept: single files of it, and the whole set brought back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loratrack import manifest
from loratrack.disk import draft_of
from loratrack.errors import RefusedError, UserError
from loratrack.places import BUNDLE
from loratrack.store.client import answering, fetching, names_of_files
from loratrack.store.place import tracking_uri
from loratrack.store.relocation import here


def fetch(run: Any, names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Those of the files that the run has kept, copied to `folder`."""
    from mlflow.artifacts import download_artifacts

    with answering(), fetching(run.info.artifact_uri):
        names_there = names_of_files(run)
        return {
            name: Path(
                download_artifacts(
                    artifact_uri=f"{here(run.info.artifact_uri)}/{name}",
                    dst_path=str(folder),
                    tracking_uri=tracking_uri(),
                )
            )
            for name in names
            if name in names_there
        }


def restore(run: Any, out: Path) -> list[str]:
    """Everything that the run has kept, whole in `out` or nothing; gives the files that are not as saved.

    `out` must be empty or not there yet.
    """
    from mlflow.artifacts import download_artifacts

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: must be an empty or new folder, got {str(out)!r}")
    draft = draft_of(out.absolute())
    draft.mkdir(parents=True)
    try:
        with answering(), fetching(run.info.artifact_uri):
            if not names_of_files(run):
                raise RefusedError(f"run {run.info.run_id} ({run.info.status}): has kept no files")
            download_artifacts(
                artifact_uri=here(run.info.artifact_uri), dst_path=str(draft), tracking_uri=tracking_uri()
            )
        top = _top(draft)
        if out.exists():  # it may be the current folder, which cannot be replaced
            for path in top.iterdir():
                path.rename(out / path.name)
        else:
            top.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return changed_files(out)


def changed_files(folder: Path) -> list[str]:
    """Files of the bundle in `folder` that are missing, not listed or not as they were saved."""
    if not (folder / BUNDLE).is_file():
        return []
    return list(manifest.faults(folder, manifest.read(folder)))


def _top(draft: Path) -> Path:
    """MLflow puts the content into the folder itself, or into one called like the artifact root."""
    inside = list(draft.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].name == "artifacts" else draft
