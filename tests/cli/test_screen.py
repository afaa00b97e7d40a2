"""Nothing that stands in a store, a file or on the command line is obeyed by rich or by the terminal."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from loratrack import cli
from loratrack.cli import main
from loratrack.errors import printable, printable_lines

ORDERS = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil\u2066\rend"
"""Clear the screen, name the window, a colour by a C1 control, and text from right to left."""
MARKUP = "[red]:smile:[/x][link=http://x]"
HOSTILE = f"{MARKUP}{ORDERS}"
SHOWN = printable(HOSTILE)


@pytest.fixture
def hostile(trained: Any) -> Any:
    """Version 1 of `tiny` is of a run whose names, tags, files and notices give orders."""
    client = MlflowClient()
    run_id = client.get_model_version("tiny", "1").run_id
    for tag in ("device", "project", "git_commit", "task_type", "mlflow.runName"):
        client.set_tag(run_id, tag, HOSTILE)
    client.set_tag(run_id, "exp_id", f"first{HOSTILE}")
    artifacts = Path(client.get_run(run_id).info.artifact_uri)
    (artifacts / HOSTILE.replace("/", "")).write_text("a file")
    (artifacts / "notices.txt").write_text(f"{HOSTILE}\n")
    facts = json.loads((artifacts / "env_info.json").read_text())
    (artifacts / "env_info.json").write_text(json.dumps(facts | {"os": HOSTILE}))
    client.create_registered_model(HOSTILE.replace("/", "").replace(":", ""))
    client.create_registered_model("[red]m")
    client.set_registered_model_alias("tiny", "champion", "2")  # outside of our history: a drift
    with sqlite3.connect(trained.database) as database:
        database.execute("update params set value = ? where key = 'description'", (HOSTILE,))
        database.execute("update datasets set name = ?", (HOSTILE,))
    return trained


def words_of_every_command(hostile: Any, folder: Path) -> list[list[str]]:
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"text": f"loud take {HOSTILE}"}) + "\n")
    config = folder / f"{HOSTILE.replace('/', '')}.yaml"
    shutil.copy(hostile.config, config)
    run_id = MlflowClient().get_model_version("tiny", "1").run_id
    return [
        ["show", run_id],
        ["show", run_id, "--json"],
        ["show", HOSTILE],
        ["compare"],
        ["compare", "--json"],
        ["compare", "--filter", f"exp_id='{HOSTILE}'"],
        ["compare", "--filter", HOSTILE],
        ["compare", "--columns", HOSTILE],
        ["promote", "tiny/1", "--why", HOSTILE],
        ["promote", "tiny/1", "--to", "challenger", "--if", HOSTILE],
        ["promote", HOSTILE],
        ["promote", "tiny/3", "--why", f"[/oops] {HOSTILE}"],
        ["rollback", "--why", HOSTILE, "--model", "tiny"],
        ["rollback", "--model", HOSTILE],
        ["history", "tiny"],
        ["history", "tiny", "--json"],
        ["history", HOSTILE],
        ["history", "[red]m"],
        ["registry", "reconcile"],
        ["registry", "reconcile", HOSTILE],
        ["registry", "delete", HOSTILE, "1"],
        ["doctor"],
        ["doctor", "--json"],
        ["predict", "--model", "models:/tiny/1", "--file", str(rows)],
        ["predict", "--model", "models:/tiny/1", "--text", f"loud {HOSTILE}"],
        ["predict", "--model", f"models:/{HOSTILE}/1", "--text", "a"],
        ["predict", "--model", HOSTILE, "--text", "a"],
        ["restore", run_id, "--out", str(folder / f"out{ORDERS}")],
        ["restore", HOSTILE, "--out", str(folder / "other")],
        ["reproduce", HOSTILE],
        ["run", f"no-such-file{HOSTILE}"],
        ["run", str(config), "--set", f"train.epochs={HOSTILE}"],
        ["run", str(config), "--set", f"exp_id={HOSTILE}"],
        ["sweep", HOSTILE],
        ["sweep", "show", HOSTILE],
        ["cache", "ls"],
        ["sync"],
    ]


def test_no_command_obeys_what_it_prints(
    hostile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no cell is folded
    printed = {}
    for words in words_of_every_command(hostile, tmp_path):
        capfd.readouterr()
        code = main(words)
        told = capfd.readouterr()
        assert code in (0, 1, 2), words
        printed[" ".join(words)] = told.out + told.err
        assert printable_lines(told.out + told.err) == told.out + told.err, words
        assert "Traceback" not in told.err, words
        if "--json" in words:
            json.loads(told.out)
    assert len(printed) == len(words_of_every_command(hostile, tmp_path))
    everything = "\n".join(printed.values())
    assert everything.count("[red]:smile:[/x][link=http://x]") > 20
    assert "[/oops] [red]:smile:" in printed["history tiny"]
    assert "\U0001f604" not in everything


def test_words_that_argparse_does_not_know_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", HOSTILE])
    assert SHOWN in capsys.readouterr().err


def test_a_warning_is_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)  # put back at the end
    main(["cache", "ls"])
    capsys.readouterr()
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.makeLogRecord({"msg": "run %s", "args": (HOSTILE,)}))
    assert capsys.readouterr().err == f"run {SHOWN}\n"


def test_json_escapes_what_a_terminal_would_obey(hostile: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = MlflowClient().get_model_version("tiny", "1").run_id
    capsys.readouterr()
    assert main(["show", run_id, "--json"]) == 0
    text = capsys.readouterr().out
    assert "\\u202eevil\\u2066" in text
    assert json.loads(text)["tags"]["device"] == HOSTILE


def test_there_is_one_door() -> None:
    modules = Path(cli.__file__).parent.glob("*.py")
    doors = [
        m.name for m in modules if re.search(r"\bConsole\(|sys\.std(out|err)\.write", m.read_text("utf-8"))
    ]
    assert doors == ["screen.py"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "x" * 300],
        ["predict", "--model", "model", "--file", f"{'x' * 300}.csv"],
        ["restore", "first", "--out", "x" * 300],
        ["compare", "--plot", f"{'x' * 300}/a.png"],
        ["sweep", "x" * 300],
    ],
)
def test_a_name_that_no_file_system_takes_is_one_message(
    trained: Any, untrained: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(untrained, trained.folder / "model")
    assert main(words) == 2
    assert re.search("File name too long|at most 255 bytes", capsys.readouterr().err)


def test_nor_is_it_the_name_of_a_model(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--model", "x" * 300, "--text", "a"]) == 1
    assert "no such run, exp_id or version" in capsys.readouterr().err
