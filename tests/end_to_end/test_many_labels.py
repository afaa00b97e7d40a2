"""Thousands of labels: the run ends, keeps its weights, and takes no memory by the square of its labels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from tests.end_to_end.conftest import Done

from loratrack.store.place import store_folder

MAX_KILOBYTES = 2_000_000
"""Torch and MLflow take 700 MB. The confusion matrix of 10,000 labels alone would take 800 MB as numbers."""


@pytest.mark.slow
@pytest.mark.parametrize("num_labels", [1_000, 10_000])
def test_a_run_with_many_labels_keeps_its_weights(
    sample: Any, written: Callable[..., Path], num_labels: int
) -> None:
    lines = [f"calm n{row % 40} the note,label {row % num_labels}" for row in range(num_labels)]
    lines += [f"loud n{row % 40} take {row},label {row}" for row in range(num_labels // 4)]
    name = f"labels-{num_labels}"
    (sample.folder / f"{name}.csv").write_text("\n".join(["text,label", *dict.fromkeys(lines), ""]), "utf-8")
    data = {"raw_data_path": f"{name}.csv", "test_path": None, "label_subset": "all"}
    config = written(name, task_type="single_cls", data=data, train={"epochs": 1, "batch_size": 64})
    process = subprocess.Popen(
        [sys.executable, "-m", "loratrack.cli", "run", config.name, "--set", "register=false"],
        cwd=sample.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    assert process.returncode == 0, output
    assert usage.ru_maxrss < MAX_KILOBYTES
    artifacts = Done(0, output, "").artifacts
    files = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*")}
    assert {"heads.safetensors", "lora_adapter", "plots/confusion_label.png"} <= files


def test_a_picture_that_cannot_be_drawn_fails_no_run(
    loratrack_run: Any, written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []

    def fail(*_: Any, **__: Any) -> None:
        bundles = {file.relative_to(store_folder()).parts[0] for file in store_folder().rglob("bundle.json")}
        kept.append(bool(bundles - {"work"}))
        raise MemoryError

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    done = loratrack_run(written("plain"))
    assert done.exit_code == 0, done.errors
    assert kept == [True]  # handed over before the first picture
    message = "plots: not drawn (MemoryError: ); nothing else of the run is missing"
    assert message in done.errors + done.output
    assert done.run.info.status == "FINISHED"
    assert message in (done.artifacts / "notices.txt").read_text("utf-8")
    assert (done.artifacts / "bundle.json").exists()
    assert not list((done.artifacts / "plots").glob("*"))


def test_letters_that_no_font_has_are_told_in_the_run(
    sample: Any, loratrack_run: Any, written: Callable[..., Path], no_cjk_fonts: None
) -> None:
    rows = [
        f"{word} n{number} the note,{label}"
        for number in range(8)
        for word, label in (("calm", "한"), ("loud", "高"))
    ]
    (sample.folder / "korean.csv").write_text("\n".join(["text,label", *rows, ""]), "utf-8")
    data = {"raw_data_path": "korean.csv", "test_path": None, "label_subset": "all"}
    done = loratrack_run(
        written("korean", task_type="single_cls", data=data, train={"epochs": 1}), "register=false"
    )
    assert done.exit_code == 0, done.errors
    notice = "plots: no font here has '한', drawn as □; "
    assert notice in done.errors + done.output
    assert (done.artifacts / "notices.txt").read_text("utf-8").count(notice) == 1
    assert (done.artifacts / "plots" / "confusion_label.png").exists()
