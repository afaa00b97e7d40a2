"""The same questions to SQLite, to PostgreSQL and to a server, with the same answers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from loratrack.errors import RefusedError, StoreError, UserError
from loratrack.index import detail, naming, search
from loratrack.index.opened import open_tables
from loratrack.index.runs import StoredRun
from loratrack.registry import events
from loratrack.store.place import database_file, tracking_uri

QUESTIONS = [
    ("task_type=multi_cls", ["exp_v5", "exp_v4", "exp_v4", "exp_中文", "exp_v2"]),
    ("task_type=double_cls", ["exp_v5", "exp_v4", "exp_v4", "exp_中文", "exp_v2"]),
    ("task_type!=double_cls", ["exp_v1"]),
    ("task_type~double", ["exp_v5", "exp_v4", "exp_v4", "exp_v2"]),
    ("model.lora.rank>=16", ["exp_v5", "exp_v4", "exp_v4", "exp_v2"]),
    ("model.lora.rank<8", ["exp_v1"]),
    ("train.lr=0.00002", ["exp_中文"]),
    ('train.lr="0.00002"', []),
    ("train.lr<=2e-4 and model.lora.rank=32", ["exp_v5", "exp_v4"]),
    ("train.threads>0", []),
    ("train.threads=null and exp_id~V4", ["exp_v4", "exp_v4"]),
    ("avg_f1>0.9", ["exp_v4", "exp_中文"]),
    ("avg_f1>=0.7 and avg_f1<0.9", ["exp_v2", "exp_v1"]),
    ("f1>0", ["exp_v1"]),
    ("test_avg_f1=0.5", ["exp_v4", "exp_v4", "exp_中文"]),
    ("metrics.avg_f1=0.2", ["exp_v5"]),
    ("train/loss<=0.5", ["exp_v5", "exp_v4", "exp_v4", "exp_中文", "exp_v2", "exp_v1"]),
    ("project=RISK", ["exp_v4"]),
    ("exp_id=exp_中文 or status=running", ["exp_v5", "exp_中文"]),
    ("not (status=finished or status=running)", ["exp_v2"]),
    ("params.model.arch=minilm and tags.project=risk", ["exp_v4"]),
    ("alias=champion", ["exp_v4"]),
    ("alias!=null", ["exp_v4"]),
    ("version=null", ["exp_v5", "exp_v4", "exp_中文", "exp_v2"]),
    ("model=risk and version<2", ["exp_v1"]),
    ("stage=Production", []),
    ("started>7d", ["exp_v5", "exp_v4"]),
    ("started<9d", ["exp_中文", "exp_v2", "exp_v1"]),
    ("ended=null", ["exp_v5"]),
    ("duration>2h", ["exp_中文"]),
    ("experiment=loratrack and exp_id~gone", []),
    ("rank=8 and lr<1e-3 and avg_f1>0.9", ["exp_中文"]),
    ("metrics.avg_f1 > 0.9 AND params.`model.lora.rank` = '8'", ["exp_中文"]),
    ("tags.project = 'risk' and attributes.status = 'FINISHED'", ["exp_v4"]),
    ("params.\"model.lora.rank\" IN ('8', '16') and attributes.run_name LIKE 'exp_v%'", ["exp_v4", "exp_v2"]),
    ("attributes.run_name LIKE 'EXP%'", []),
    ("attributes.run_name ILIKE 'EXP_V_'", ["exp_v5", "exp_v4", "exp_v4", "exp_v2", "exp_v1"]),
    ("rank not in (8, 16) and exp_id is not null", ["exp_v5", "exp_v4", "exp_v1"]),
    ("attributes.end_time IS NULL", ["exp_v5"]),
    (
        "attributes.start_time > 0000000000001 and attributes.start_time < 4102444800000 and rank=8",
        ["exp_中文"],
    ),
]


def found(text: str | None, **more: object) -> list[str]:
    with open_tables() as tables:
        answer = search.search(tables, filter_text=text, limit=100, **more)  # type: ignore[arg-type]
    assert answer.total == len(answer.runs)
    return [run.summary.exp_id for run in answer.runs]


def runs_of(text: str, **more: object) -> Sequence[StoredRun]:
    with open_tables() as tables:
        return search.search(tables, filter_text=text, limit=100, **more).runs  # type: ignore[arg-type]


def test_expressions_find_the_same_in_every_store(any_store_of_runs: str) -> None:
    with open_tables() as tables:
        answers = {text: search.search(tables, filter_text=text, limit=100).runs for text, _ in QUESTIONS}
    assert {text: [run.summary.exp_id for run in runs] for text, runs in answers.items()} == dict(QUESTIONS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("avg_f1", ["exp_v4", "exp_中文", "exp_v1", "exp_v2", "exp_v4", "exp_v5"]),
        ("f1", ["exp_v1", "exp_v5", "exp_v4", "exp_v4", "exp_中文", "exp_v2"]),
        ("model.lora.rank", ["exp_v5", "exp_v4", "exp_v4", "exp_v2", "exp_中文", "exp_v1"]),
        ("exp_id", ["exp_v1", "exp_v2", "exp_v4", "exp_v4", "exp_v5", "exp_中文"]),
        ("started", ["exp_v5", "exp_v4", "exp_v4", "exp_中文", "exp_v2", "exp_v1"]),
    ],
)
def test_runs_are_sorted_best_first(any_store_of_runs: str, name: str, expected: Sequence[str]) -> None:
    assert found(None, sort_by=name) == list(expected)


def test_a_loss_is_best_when_it_is_low(store_of_runs: str) -> None:
    with open_tables() as tables:
        answer = search.search(tables, sort_by="train/loss", limit=2)
    assert [run.best("train/loss") for run in answer.runs] == [0.5, 0.5]
    assert answer.total == 6


def test_a_run_is_told_in_full(any_store_of_runs: str) -> None:
    with open_tables() as tables:
        answer = search.search(tables, filter_text="alias=champion", limit=1)
        details = detail.detail(tables, answer.runs[0].summary.run_id)
    assert details.run == answer.runs[0]
    run = details.run
    assert run.params["model.lora.rank"] == "16"
    assert run.tags["project"] == "risk"
    assert run.scores == ("avg_f1",)
    assert (run.best("avg_f1"), run.metrics["avg_f1"], run.best("test_avg_f1")) == (0.93, 0.93, 0.5)
    assert [str(version) for version in run.versions] == ["risk v2 @champion"]
    assert details.best_epoch == 2
    assert details.epochs == {1: {"avg_f1": 0.4, "train/loss": 1.0}, 2: {"avg_f1": 0.93, "train/loss": 0.5}}


def test_a_run_without_a_best_epoch_shows_its_best_so_far(any_store_of_runs: str) -> None:
    with open_tables() as tables:
        details = detail.detail(tables, "exp_v2").run
    assert details.scores == ("avg_f1",)
    assert details.best("avg_f1") == 0.7
    assert details.best("best_avg_f1") is None


def test_an_exp_id_means_its_newest_run_and_never_its_sweep(any_store_of_runs: str) -> None:
    with open_tables() as tables:
        newest = naming.find(tables, "exp_v4")
        assert naming.find(tables, newest.run_id[:12]) == newest
        assert naming.find(tables, newest.run_id) == newest
        sweep = naming.find(tables, "sweep")
        with pytest.raises(RefusedError, match=r"^exp_v9: no such run, exp_id or version in "):
            naming.find(tables, "exp_v9")
        with pytest.raises(RefusedError, match="exp_gone"):
            naming.find(tables, "exp_gone")
    assert sweep.name == "sweep"
    assert [name for name in found(None) if name == "sweep"] == []
    with open_tables() as tables:
        run = detail.detail(tables, "exp_v4").run
    assert run.params["model.lora.rank"] == "32"


def test_a_beginning_of_several_ids_is_refused(client: MlflowClient) -> None:
    with closing(sqlite3.connect(database_file(tracking_uri()) or "")) as database, database:
        for run_id in ("abcd" + "0" * 28, "abcd" + "1" * 28):
            database.execute(
                "INSERT INTO runs(run_uuid, status, start_time, lifecycle_stage, experiment_id)"
                " VALUES (?, 'FINISHED', 0, 'active', 0)",
                (run_id,),
            )
            database.execute("INSERT INTO tags VALUES ('exp_id', 'exp_v1', ?)", (run_id,))
    with open_tables() as tables:
        assert naming.find(tables, "abcd1").run_id == "abcd" + "1" * 28
        with pytest.raises(UserError, match=r"^abcd: must be the beginning of one run's id, got 2: abcd0000"):
            naming.find(tables, "abcd")
        with pytest.raises(RefusedError):
            naming.find(tables, "abc")  # too short to be one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "avg_f1>0 and model.lora.rnk>8",
            "no run has 'model.lora.rnk'; did you mean 'model.lora.rank'?\n"
            "  avg_f1>0 and model.lora.rnk>8\n"
            "               ^^^^^^^^^^^^^^",
        ),
        ("rnak>8", "no run has 'rnak'; did you mean 'model.lora.rank'?\n  rnak>8\n  ^^^^"),
        ("exp_id=a and \udcff=1", "must be text in UTF-8\n  exp_id=a and  =1\n               ^"),
        ("项目=1 or avg_f2>0", "no run has '项目'\n  项目=1 or avg_f2>0\n  ^^^^"),
        (
            "metrics.avg_f2>0",
            "no run has 'metrics.avg_f2'; did you mean 'avg_f1'?\n  metrics.avg_f2>0\n  ^^^^^^^^^^^^^^",
        ),
    ],
)
def test_a_name_that_no_run_has_is_shown_with_one_like_it(
    store_of_runs: str, text: str, message: str
) -> None:
    with pytest.raises(UserError) as fault:
        found(text)
    assert str(fault.value) == message


def test_names_to_sort_by_and_to_show_must_be_known_too(store_of_runs: str) -> None:
    with pytest.raises(UserError, match=r"^--sort-by: no run has 'avg_f'; did you mean 'avg_f1'\?$"):
        found(None, sort_by="avg_f")
    with pytest.raises(UserError, match=r"^--columns: no run has 'lrr'; did you mean 'train.lr'\?$"):
        found(None, columns=["exp_id", "lrr"])
    for more in ({"sort_by": "\udcff"}, {"columns": ["\udcff"]}):
        with pytest.raises(UserError, match="no run has "):
            found(None, **more)
    with open_tables() as tables, pytest.raises(RefusedError, match="no such run"):
        naming.find(tables, "\udcff")


def test_headings_of_a_table_are_names(store_of_runs: str) -> None:
    assert found("rank>8 and threads=null") == found("model.lora.rank>8")
    assert found(None, sort_by="rank") == found(None, sort_by="model.lora.rank")
    assert found("registered=2") == found("version=2") == ["exp_v4"]
    [run_id] = [run.summary.run_id for run in runs_of("alias=champion")]
    assert found(f"run={run_id}") == ["exp_v4"]
    [run] = runs_of("alias=champion", columns=["rank", "run"])
    assert (run.values("rank"), run.values("run")) == (("16",), (run_id,))


def test_a_heading_that_may_be_two_settings_is_told(client: MlflowClient) -> None:
    run_id = client.create_run("0", tags={"exp_id": "a"}).info.run_id
    for setting in ("model.lora.dropout", "model.dropout", "train.seed", "sweep.seed"):
        client.log_param(run_id, setting, "0.1")
    with pytest.raises(UserError, match="several settings are called 'dropout': model"):
        found("dropout>0")
    assert found("seed>0") == ["a"]  # that of the sweep is no setting of a training


def test_metrics_of_every_run_are_no_mistake_before_there_is_one(store_of_runs: str) -> None:
    assert found("test_avg_accuracy>0.5") == []


def test_a_store_that_nobody_has_used_is_empty_and_stays_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    with open_tables() as tables:
        answer = search.search(tables, filter_text="any.thing>3", limit=10)
    assert (answer.runs, answer.num_in_store) == ((), 0)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_version_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs(run_uuid TEXT)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with open_tables() as tables, pytest.raises(StoreError, match="mlflow db upgrade"):
        search.search(tables, limit=10)


def test_moves_in_the_registry_are_no_runs(client: MlflowClient) -> None:
    move = events.Event("clinc", "champion", "promote", before=None, after=1)
    run_id = events.write(client, move, at_ms=1).run_id
    client.set_tag(run_id, "exp_id", "clinc")
    with open_tables() as tables:
        assert search.summaries(tables) == []


def test_asking_a_database_imports_neither_mlflow_nor_torch(store_of_runs: str) -> None:
    program = (
        "import sys; from loratrack.cli import main; code = main(['compare', '--filter', 'avg_f1>0.9']);"
        " code += main(['show', 'exp_v1']);"
        " print(code, [m for m in ('mlflow', 'torch', 'pandas', 'sqlalchemy') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "0 []", process.stderr
