"""`loratrack show`: everything of one run on one screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.cells import cell_len
from tests.stores import be_a_terminal, use

from loratrack.cli import main
from loratrack.tracking.writer import RunWriter

SHA256 = "0123456789abcdef" * 4


def test_a_run_on_one_screen(any_store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "exp_v4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "exp_v4  FINISHED  double_cls  clinc  cpu"
    assert lines[1] == "风险等级 [bold]与[/bold] $x$"
    text = "\n".join(lines)
    assert ", took 1 min 0 s" in text
    ui = any_store_of_runs if any_store_of_runs.startswith("http") else "http://127.0.0.1:5000"
    assert f"MLflow       {ui}/#/experiments/" in text
    assert "?workflowType=machine_learning" in text
    assert "F1, epoch 2" in text
    assert "│ average │" in text
    assert "0.6500" in text
    assert "│ *2    │ 0.6500 │        0.5 │" in text
    assert any("lora.rank" in line and line.split()[1] == "32" for line in lines)
    assert len(lines) < 45


def test_a_registered_run_and_one_without_a_best_epoch(
    store_of_runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--filter", "alias=champion", "--json"]) == 0
    [champion] = json.loads(capsys.readouterr().out)["runs"]
    assert main(["show", champion["run_id"][:10]]) == 0
    assert "registered   risk v2 @champion\n" in capsys.readouterr().out
    assert main(["show", "exp_v2"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[2] == "error        exp_v2: the loss was nan"
    assert "F1, best" in output
    assert "0.7000" in output


@pytest.fixture
def full_run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A run with all that training leaves."""
    files = tmp_path / "files"
    (files / "lora_adapter").mkdir(parents=True)
    (files / "lora_adapter" / "adapter_config.json").write_text("{}")
    (files / "notices.txt").write_text("LoRA on query, value\n布局: padded\n", "utf-8")
    facts = {
        "python": "3.11.7 (main)",
        "os": "Linux",
        "cpu": {"model": "EPYC"},
        "packages": {"torch": "2.13.0", "peft": "0.21.2", "zipp": "4"},
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "gpu": {"devices": [{"name": "H200"}]},
    }
    (files / "env_info.json").write_text(json.dumps(facts))
    run = RunWriter.start(name="exp_full", params={"train.lr": 2e-5}, tags={"exp_id": "exp_full"})
    for epoch in range(1, 31):
        run.log_metrics({"f1": epoch / 100 if epoch != 7 else 0.9, "train/loss": 1 / epoch}, step=epoch)
    run.log_metrics({"best_f1": 0.9, "best_epoch": 7, "test_f1": 0.8}, step=30)
    run.log_dataset("train.csv", "data/train.csv", SHA256, "training", 12345)
    run.log_artifacts(files)
    assert run.finish("FINISHED")
    return run.run_id


EXPECTED = (
    "dataset      train.csv (training, 12,345 rows, sha256 0123456789ab)",
    "             env_info.json  lora_adapter/  notices.txt",
    "environment  Python 3.11.7, torch 2.13.0, peft 0.21.2, H200, Linux, commit 0123456789 with changes",
    "notice       LoRA on query, value",
    "notice       布局: padded",
    "with --json also 19 more epochs",
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", pytest.param("server", marks=pytest.mark.slow)])
def test_files_datasets_environment_and_notices(
    kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    if kind == "sqlite":
        empty: Path = request.getfixturevalue("empty_database")
        (tmp_path / "mlflow.db").write_bytes(empty.read_bytes())
    else:
        uri = request.getfixturevalue(kind)
    use(uri, monkeypatch, tmp_path)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "60")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"show-{kind}")
    run_id = request.getfixturevalue("full_run")
    try:
        assert main(["show", run_id]) == 0
        output = capsys.readouterr().out
        for line in EXPECTED:
            assert f"{line}\n" in output
        assert " *7 " in output
        assert main(["show", run_id, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
    finally:
        MlflowClient(uri).delete_run(run_id)
    assert len(facts["epochs"]) == 30
    assert facts["epochs"]["7"] == {"f1": 0.9, "train/loss": 1 / 7}
    assert facts["best_epoch"] == 7
    assert facts["datasets"] == [
        {"name": "train.csv", "context": "training", "rows": 12345, "sha256": SHA256}
    ]
    assert facts["environment"]["packages"]["zipp"] == "4"
    assert facts["notices"] == ["LoRA on query, value", "布局: padded"]


def test_the_metric_that_chose_the_epoch_and_each_F1_come_first(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"train.save_strategy": "best_avg_accuracy"}
    run = RunWriter.start(name="dual", params=params, tags={"exp_id": "dual"})
    scores = {f"{task}_{measure}": 0.5 for task in ("avg", "情感", "类别") for measure in ("accuracy", "f1")}
    run.log_metrics({**scores, "train/loss": 0.7, "validation/loss": 0.8, "system/epoch_seconds": 3}, step=1)
    run.log_metrics({f"best_{name}": value for name, value in scores.items()} | {"best_epoch": 1}, step=1)
    assert run.finish("FINISHED")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["show", "dual"]) == 0
    headings = [line.split("┃")[1:-1] for line in capsys.readouterr().out.splitlines() if line[:1] == "┃"]
    assert [[cell.strip() for cell in line] for line in headings] == [
        ["task", "F1, epoch 1", "accuracy, epoch 1"],
        ["epoch", "avg_accuracy", "avg_f1", "情感_f1", "类别_f1", "train/loss"],
    ]


def test_a_sweep_has_its_own_name_and_a_row_for_each_trial(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"sweep.name": "by-rank", "train.save_strategy": "best_avg_f1"}
    run = RunWriter.start(name="by-rank", params=params, tags={"exp_id": "clinc_dual", "sweep": "by-rank"})
    for trial in range(30):
        run.log_metrics({"trial/f1": trial / 100}, step=trial)
        run.log_metrics({"f1": 0.9}, step=trial + 1)  # the best so far, after so many trials
    assert run.finish("FINISHED")
    assert main(["show", "by-rank"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[0] == "by-rank  sweep of clinc_dual  FINISHED"
    assert "┃ trial ┃     f1 ┃" in output
    assert "│    29 │ 0.2900 │" in output
    assert "with --json also 20 more trials\n" in output


@pytest.mark.parametrize("width", [60, 100, 160])
def test_every_width_of_terminal(
    store_of_runs: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_a_terminal(width, monkeypatch)
    assert main(["show", "exp_v4"]) == 0
    output = capsys.readouterr().out
    table = [line for line in output.splitlines() if line[:1] in "┃┡│└┏"]
    assert len(table) > 8
    assert all(cell_len(line) <= width for line in table)


def test_no_such_run_is_1(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "exp_v9"]) == 1
    assert capsys.readouterr().err == (
        f"loratrack: exp_v9: no such run, exp_id or version in {store_of_runs}; did you mean 'exp_v5'?\n"
    )


@pytest.mark.parametrize(
    ("words", "rank"),
    [
        ("risk/2", "16"),
        ("models:/risk/2", "16"),
        ("risk@champion", "16"),
        ("models:/risk@champion", "16"),
        ("exp_v4", "32"),
        ("risk/1", "4"),
    ],
)
def test_one_grammar_names_runs_and_versions(
    any_store_of_runs: str, words: str, rank: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", words, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["settings"]["model.lora.rank"] == rank
    for same in (run["run_id"], run["run_id"][:12], f"runs:/{run['run_id']}"):
        assert main(["show", same, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["run_id"] == run["run_id"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("risk/9", 1, "risk/9: no such version; it has 1, 2"),
        ("risk@champoin", 1, "risk@champoin: no such alias; did you mean 'champion'?; it has champion"),
        ("risk", 2, "risk: must say which version, such as risk/1 or risk@champion"),
    ],
)
def test_a_version_that_is_not_there_is_told(
    store_of_runs: str, words: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", words]) == code
    assert capsys.readouterr().err == f"loratrack: {message}\n"


def test_an_exp_id_means_its_newest_run_that_has_finished(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = []
    for status in ("FINISHED", "FAILED"):
        run = RunWriter.start(name="exp_v1", params={}, tags={"exp_id": "exp_v1"})
        assert run.finish(status)
        ids.append(run.run_id)
    assert main(["show", "exp_v1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"run          {ids[0]}" in lines
    assert f"newer        {ids[1]} is FAILED" in lines
