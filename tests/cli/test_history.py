"""`loratrack history`: moves word for word, whatever their reasons hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.stores import be_a_terminal

from loratrack.cli import main
from loratrack.registry import promotion
from loratrack.store.client import connect
from loratrack.views.history import history

REASON = "data fixed in [/srv/data], see [pr-12] :smile: [bold]"


@pytest.fixture
def promoted(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model `clinc` whose version 1 was made champion for REASON."""
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("COLUMNS", "200")
    client = connect()
    client.create_registered_model("clinc")
    client.create_model_version("clinc", "s3://nowhere/model")
    promotion.promote("clinc", 1, expected=None, why=REASON, gate=lambda: None)


def test_a_reason_with_brackets_is_shown_word_for_word(
    promoted: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "clinc"]) == 0
    assert f"  {REASON}\n" in capsys.readouterr().out
    assert main(["history", "clinc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == history("clinc")


def test_the_moment_is_on_one_line_at_80_columns(
    promoted: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_a_terminal(80, monkeypatch)
    assert main(["history", "clinc"]) == 0
    moment = history("clinc")["moves"][0]["when"]
    assert moment is not None
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{moment[:10]} {moment[11:19]}  promote  champion  –     1   ")
    assert max(map(len, lines)) <= 80


def test_the_view_and_the_json_hold_the_same(promoted: None) -> None:
    content = history("clinc")
    [move] = content["moves"]
    assert (move["event"], move["alias"], move["from"], move["to"]) == ("promote", "champion", None, 1)
    assert move["why"] == REASON
    assert content["aliases"] == {"champion": 1}
    assert content["drift"] == []


def test_a_mistyped_name_is_1(promoted: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "clnc"]) == 1
    message = "loratrack: 'clnc': no such registered model; did you mean 'clinc'?\n"
    assert capsys.readouterr().err == message


def test_the_tables_are_read_without_mlflow(promoted: None, tmp_path: Path) -> None:
    """Importing it takes seconds; a moved alias and a stage out of step are seen all the same."""
    client: Any = connect()  # as a hand moves it: nothing of ours does so without a record
    client.create_model_version("clinc", "s3://nowhere/model")
    client.set_registered_model_alias("clinc", "champion", "2")
    program = (
        "import json, sys; from loratrack.views.history import history; content = history('clinc');"
        "print(json.dumps([name for name in ('mlflow', 'torch') if name in sys.modules]));"
        "print(json.dumps(content))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported, content = map(json.loads, process.stdout.splitlines())
    assert imported == []
    assert [move["event"] for move in content["moves"]] == ["promote", "noticed"]
    assert content["drift"] == [
        "the move of champion from version 1 to version 2 was done outside loratrack",
        "version 1 is in stage Production, its aliases say Archived",
        "version 2 is in stage None, its aliases say Production",
    ]
