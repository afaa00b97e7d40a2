"""`--json`: one object on the output, and everything else on the error stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from loratrack.cli.progress import counting
from loratrack.cli.screen import console


def test_a_run(trained: Any, ask: Any) -> None:
    code, output, errors = ask("run", trained.config, "--set", "train.epochs=1; exp_id=third", "--json")
    content = json.loads(output)
    run = MlflowClient().get_run(content["run_id"])
    assert code == 0
    assert (content["status"], content["version"]) == ("FINISHED", "tiny/4")
    assert content["artifact_uri"] == run.info.artifact_uri
    assert content["metrics"] == {name: run.data.metrics[name] for name in content["metrics"]}
    assert {"best_avg_f1", "best_epoch", "test_avg_f1"} <= set(content["metrics"])
    kept = Path(run.info.artifact_uri, "notices.txt").read_text("utf-8").splitlines()
    assert content["notices"] == kept
    assert content["best_epoch"] == 1
    assert len(content["epochs"]) == 1
    assert f"third: run {content['run_id']}\n" in errors
    assert "epoch 1/1  loss " in errors


def test_predictions(trained: Any, ask: Any, tmp_path: Path) -> None:
    model = "models:/tiny/1"
    code, output, _ = ask("predict", "--model", model, "--text", "loud take", "--text", "calm", "--json")
    content = json.loads(output)
    assert code == 0
    assert content["model"] == model
    assert [row["text"] for row in content["rows"]] == ["loud take", "calm"]
    assert all(0 < row["risk_probability"] <= 1 for row in content["rows"])
    rows = tmp_path / "rows.csv"
    rows.write_text("text\nloud\ncalm\n")
    words = ("predict", "--model", model, "--file", rows)
    assert len(json.loads(ask(*words, "--json")[1])["rows"]) == 2
    code, output, errors = ask(*words, "--out", tmp_path / "out.csv", "--json")
    assert json.loads(output) == {"model": model, "out": str(tmp_path / "out.csv"), "rows": 2}
    assert f"{tmp_path / 'out.csv'}: 2 rows\n" in errors


def test_a_file_is_counted_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(counting(iter("ab"), 2, "rows.csv", console(beside_the_answers=True))) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert list(counting(iter("ab"), 2, "rows.csv", console(beside_the_answers=True))) == ["a", "b"]
    output, errors = capsys.readouterr()
    assert output == ""
    assert "rows.csv \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m 100 %" in errors
