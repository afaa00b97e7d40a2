"""`loratrack doctor`: each thing that can be wrong, and what it says to do."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from loratrack.checkpoints import home_of
from loratrack.cli import main
from loratrack.store import leases, process, relocation
from loratrack.store.client import connect, ensure_experiment
from loratrack.store.place import store_folder, store_name, tracking_uri
from loratrack.tracking.outbox import Outbox
from loratrack.views import machine

Findings = dict[str, list[dict[str, str]]]


@pytest.fixture
def findings(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """`loratrack doctor --json` beside an empty store: exit code, and what was found by area."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.chdir(tmp_path)

    def look(*words: str) -> tuple[int, Findings]:
        capsys.readouterr()
        code = main(["doctor", "--json", *words])
        found: Findings = {}
        for finding in json.loads(capsys.readouterr().out):
            found.setdefault(finding["area"], []).append(finding)
        return code, found

    return look


def open_run(tags: dict[str, str]) -> str:
    client = connect()
    run_id = client.create_run(ensure_experiment("loratrack"), run_name="exp", tags=tags).info.run_id
    return str(run_id)


def a_dead_process() -> dict[str, str]:
    program = "import json; from loratrack.store import process; print(json.dumps(process.own_tags()))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return dict(json.loads(process.stdout))


def test_where_all_is_well_nothing_is_to_be_done(findings: Any) -> None:
    code, report = findings()
    assert code == 0, report
    assert report["runs"][0]["text"] == "0 RUNNING, each with a live process"
    assert report["hub"][0]["text"].startswith("HF_HUB_OFFLINE is set; bases come from this machine")
    assert {"environment", "plug-in", "store", "registry", "outbox", "disk", "gpu"} <= set(report)


def test_dead_runs_are_told_and_ended(findings: Any) -> None:
    dead, living = open_run(a_dead_process()), open_run(process.own_tags())
    pid_and_more = a_dead_process()[process.PROCESS].split(" ", 1)[1]
    far = open_run({process.PROCESS: f"far-away {pid_and_more}"})
    silent = open_run({})
    code, report = findings()
    assert code == 1
    told = {finding["text"]: (finding["state"], finding["remedy"]) for finding in report["runs"]}
    assert told == {
        f"exp ({dead}) is marked RUNNING, and its process is gone": ("fault", "loratrack doctor --fix"),
        f"exp ({far}) is marked RUNNING on far-away": (
            "note",
            f"loratrack doctor --fix on far-away; if it is dead: loratrack doctor --fix --run {far}",
        ),
        f"exp ({silent}) is marked RUNNING but records no host or process": (
            "note",
            f"if it is dead: loratrack doctor --fix --run {silent}",
        ),
    }
    code, report = findings("--fix")
    assert code == 0
    assert report["runs"][0]["text"] == f"exp ({dead}) is marked FAILED"
    status = {run_id: connect().get_run(run_id).info.status for run_id in (dead, living, far, silent)}
    assert status == {dead: "FAILED", living: "RUNNING", far: "RUNNING", silent: "RUNNING"}


def test_a_run_whose_last_words_wait_is_not_ended(findings: Any) -> None:
    dead = open_run(a_dead_process())
    outbox = Outbox(store_folder(), store_name())
    outbox.add(dead, "status", "FINISHED")
    outbox.close()
    code, report = findings("--fix")
    assert code == 1
    assert report["runs"][0]["remedy"] == "loratrack sync"
    assert report["outbox"][0]["text"] == "1 row pending for the store"
    assert connect().get_run(dead).info.status == "RUNNING"


def hold(folder: Path, run_id: str) -> Any:
    """The lease of a run, as its own process holds it."""
    lease = leases.take(folder, run_id)
    assert lease is not None
    return lease


def test_a_run_whose_lease_is_held_is_alive_whatever_its_tags_say(findings: Any) -> None:
    """A sweep goes on when the process that began it has died; the next one holds its lease."""
    run_id = open_run(a_dead_process())
    with hold(store_folder(), run_id):
        code, report = findings("--fix")
    assert code == 0
    assert report["runs"] == [
        {"area": "runs", "state": "ok", "text": "1 RUNNING, each with a live process", "remedy": ""}
    ]
    assert connect().get_run(run_id).info.status == "RUNNING"
    assert findings("--fix")[1]["runs"][0]["text"] == f"exp ({run_id}) is marked FAILED"


def test_dead_runs_are_marked_where_runs_are_shown(findings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    dead, held = (open_run({**a_dead_process(), "exp_id": name}) for name in ("dead", "held"))
    with hold(store_folder(), held):
        assert main(["compare", "--columns", "run_id,status"]) == 0
        lines = capsys.readouterr().out.splitlines()
    assert {run_id[:8]: [line for line in lines if run_id[:8] in line] for run_id in (dead, held)} == {
        dead[:8]: [f"│ dead   │ {dead[:8]} │ RUNNING, dead │"],
        held[:8]: [f"│ held   │ {held[:8]} │ RUNNING       │"],
    }
    assert main(["show", "dead"]) == 0
    assert "its process is gone: loratrack doctor --fix" in capsys.readouterr().out


def test_a_dead_run_that_has_kept_its_model_is_finished(findings: Any) -> None:
    """It ended when it last logged something, not when somebody looked."""
    run_id = open_run(a_dead_process())
    client: Any = connect()
    client.log_metric(run_id, "f1", 0.5, timestamp=1_700_000_000_000)
    client.log_text(run_id, "flavors: {}", "pyfunc/MLmodel")
    report = findings("--fix")[1]
    assert report["runs"][0]["text"] == f"exp ({run_id}) is marked FINISHED"
    assert report["runs"][0]["remedy"] == f"loratrack register {run_id}"
    info = client.get_run(run_id).info
    assert (info.status, info.end_time) == ("FINISHED", 1_700_000_000_000)


def test_a_run_elsewhere_is_ended_on_the_users_word(findings: Any, capsys: Any) -> None:
    silent, living = open_run({}), open_run(process.own_tags())
    report = findings("--fix", "--run", silent)[1]
    assert report["runs"][0]["text"] == f"exp ({silent}) is marked FAILED"
    assert connect().get_run(silent).data.tags[process.ENDED_BY].endswith("the user said that it was dead")
    assert main(["doctor", "--fix", "--run", living]) == 1
    assert f"--run {living}: cannot be ended, its process lives" in capsys.readouterr().err
    assert main(["doctor", "--run", living]) == 2
    assert "--run: means nothing without --fix" in capsys.readouterr().err


def test_what_nobody_can_go_on_from_is_cleared_away(findings: Any) -> None:
    """Of a run that was killed before it was saved, and of a removal that was cut short."""
    dead, living = open_run(a_dead_process()), open_run(process.own_tags())
    for run_id in (dead, living):
        home_of(store_folder(), run_id).claim()
    half_removed = store_folder() / "checkpoints" / f".{dead}.1-a.draft"
    half_removed.mkdir()
    lease = leases.take(store_folder(), living)
    assert lease is not None
    findings()
    assert half_removed.exists()
    findings("--fix")
    assert [path.name for path in (store_folder() / "checkpoints").iterdir()] == [living]
    lease.close()


def test_paths_that_lead_elsewhere_are_told_and_corrected(findings: Any, tmp_path: Path) -> None:
    run_id = open_run(process.own_tags())
    relocation.follow(tracking_uri())
    marker = tmp_path / "mlruns" / ".mlflow.db.place"
    marker.write_text("/elsewhere/mlruns")
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = '/elsewhere/mlruns/artifacts/1'")
    code, report = findings()
    assert code == 0
    assert report["paths"][0]["text"].startswith("the recorded artifact paths lead to /elsewhere/mlruns, ")
    assert findings("--fix")[1]["paths"][0]["state"] == "ok"
    assert connect().get_run(run_id).info.artifact_uri == f"{tmp_path}/mlruns/artifacts/1"
    assert "paths" not in findings()[1]


def test_drift_is_told(findings: Any) -> None:
    client: Any = connect()  # as a hand moves it: nothing of ours does so without a record
    client.create_registered_model("clinc")
    client.create_model_version("clinc", "s3://nowhere/model")
    client.set_registered_model_alias("clinc", "champion", "1")
    code, report = findings()
    assert code == 1
    assert [finding["text"] for finding in report["registry"]] == [
        "clinc: the move of champion from no version to version 1 was done outside loratrack",
        "clinc: version 1 is in stage None, its aliases say Production",
    ]
    assert report["registry"][0]["remedy"] == "loratrack registry reconcile clinc"


def test_a_store_that_is_away_is_one_fault_among_others(
    findings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, report = findings()
    assert code == 1
    assert report["store"][0]["state"] == "fault"
    assert "runs" not in report
    assert "disk" in report


def test_other_versions_than_the_locked_ones_are_named(
    findings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MLproject").write_text("name: loratrack\n")
    (tmp_path / "requirements.txt").write_text("# all\npeft==0.0.1\npyyaml==0.0.2\nnot-here==1\n")
    report = findings()[1]["lock"][0]
    assert report["state"] == "note"
    assert report["text"].startswith("2 versions are not those of requirements.txt: peft ")


def test_unmet_needs_are_named() -> None:
    unmet = machine.unmet_requirements({"mlflow": "1.0"})
    assert "mlflow==3.17.2 (got 1.0)" in unmet
    assert any(text.startswith("peft") and text.endswith("(got none)") for text in unmet)
    assert not any("pytest" in text for text in unmet)


class Answers(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub)
    assert machine.check_hub().text == f"{hub} answers"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in machine.check_hub().text


def test_looking_makes_nothing_and_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from loratrack.cli import main; main(['doctor']);"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "XDG_DATA_HOME": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stdout.endswith("[]\n")
    assert list(tmp_path.iterdir()) == []
