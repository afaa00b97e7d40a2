"""`loratrack show RUN --plots DIR`: the pictures of a run, drawn when somebody looks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient


def files_of(run_id: str) -> Path:
    return Path(MlflowClient().get_run(run_id).info.artifact_uri)


def test_they_are_those_that_the_run_has_drawn_itself(ask: Any) -> None:
    run_id = MlflowClient().get_model_version("tiny", "1").run_id
    kept = files_of(run_id) / "plots"
    code, output, errors = ask("show", run_id, "--plots", "pictures")
    assert code == 0
    assert output.startswith("first  FINISHED")
    names = sorted(file.name for file in kept.iterdir())
    assert errors == f"drawn into pictures: {', '.join(names)}\n"
    for name in names:
        assert Path("pictures", name).read_bytes() == (kept / name).read_bytes(), name


def test_a_run_that_lacks_the_files_says_which(ask: Any) -> None:
    run_id = MlflowClient().get_model_version("tiny", "1").run_id
    (files_of(run_id) / "answers.json").unlink()
    code, _, errors = ask("show", run_id, "--plots", "pictures")
    assert (code, [file.name for file in Path("pictures").iterdir()]) == (0, ["loss.png"])
    assert errors.startswith(f"run {run_id}: has kept no answers.json; its loss alone is drawn\n")
    (files_of(run_id) / "metrics.json").write_text("{")
    code, _, errors = ask("show", run_id, "--plots", "pictures")
    assert code == 2
    assert errors.startswith(
        f"loratrack: run {run_id}: metrics.json or answers.json is not as a run writes it"
    )
    shutil.rmtree(files_of(run_id))
    code, _, errors = ask("show", run_id, "--plots", "pictures")
    assert code == 1
    assert errors == f"loratrack: run {run_id}: has kept no metrics.json, so there is nothing to draw\n"


@pytest.mark.parametrize(("folder", "reason"), [("a", "File exists"), ("a/b", "Not a directory")])
def test_a_file_in_the_way_is_one_message(ask: Any, folder: str, reason: str) -> None:
    Path("a").write_text("")
    code, _, errors = ask("show", "first", "--plots", folder)
    assert code == 2
    assert errors == (
        f"loratrack: {folder}: {reason}; a file lies where a folder is needed; name another folder\n"
    )
