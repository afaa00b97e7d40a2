"""A project that may be read and not written: questions are answered, and what cannot be done is told."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

DROP_RIGHTS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)  # root heeds the rights of files too
os.execv(sys.executable, [sys.executable, "-W", "ignore", "-c", *sys.argv[1:]])
"""
CALL_ALL = """
import io, json, os, sys
if os.access(sys.argv[2], os.W_OK):
    sys.exit("writable")
from contextlib import redirect_stderr, redirect_stdout
from loratrack.cli import main
answers = []
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
        code = main(words)
    answers.append((code, out.getvalue(), error.getvalue()))
print(json.dumps(answers))
"""


def set_rights(folder: Path, *, is_writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200 if is_writable else path.stat().st_mode & ~0o222)


@pytest.fixture
def read_only(trained: Any) -> Any:
    set_rights(trained.folder, is_writable=False)
    yield trained
    set_rights(trained.folder, is_writable=True)


@pytest.mark.slow
def test_who_may_not_write_reads_everything_and_is_told_the_rest(read_only: Any, tmp_path: Path) -> None:
    version = "models:/tiny/1"
    questions = [
        ["compare"],
        ["show", "first"],
        ["history", "tiny"],
        ["predict", "--model", version, "--text", "calm"],
        ["restore", "first", "--out", str(tmp_path / "out")],
    ]
    orders = [
        ["run", str(read_only.config)],
        ["promote", "tiny/1"],
        ["sync"],
        ["register", "first", "--name", "n"],
    ]
    words = json.dumps([*questions, *orders])
    process = subprocess.run(
        [sys.executable, "-c", DROP_RIGHTS, CALL_ALL, words, str(read_only.folder)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    if process.stderr.strip() == "writable":
        pytest.skip("this user may write everything, and may not give that up")
    assert process.returncode == 0, process.stderr
    answers = json.loads(process.stdout.splitlines()[-1])
    codes = [code for code, _, _ in answers]
    assert codes == [0, 0, 1, 0, 0, 2, 2, 2, 2], answers  # history: no move yet
    run, promote, sync, register = [error for _, _, error in answers[len(questions) :]]
    database = f"sqlite:///{read_only.database}"
    may_not = "attempt to write a readonly database; you may read it but not write it: ask its owner"
    assert f"loratrack: {database}: the tracking store must answer to start a run, got: " in run
    assert may_not in run
    assert may_not in register
    assert promote == (
        f"loratrack: {read_only.database.parent}/.registry.lock: Permission denied;"
        " mend its rights, or work in another folder\n"
    )
    assert "outbox.db: the outbox of metrics must be writable, got" in sync


@pytest.mark.slow
def test_who_may_not_write_sees_what_a_living_writer_has_just_written(trained: Any) -> None:
    """It lies in the file beside the database, which a reader that is told "immutable" would not open."""
    with closing(sqlite3.connect(trained.database)) as writer:
        writer.execute("UPDATE tags SET value = 'renamed' WHERE key = 'exp_id' AND value = 'first'")
        writer.commit()
        set_rights(trained.folder, is_writable=False)
        questions = json.dumps([["show", "renamed"], ["restore", "renamed", "--out", "/nowhere/x"]])
        command = [sys.executable, "-c", DROP_RIGHTS, CALL_ALL, questions, str(trained.folder)]
        process = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        set_rights(trained.folder, is_writable=True)
    if process.stderr.strip() == "writable":
        pytest.skip("this user may write everything, and may not give that up")
    shown, restored = json.loads(process.stdout.splitlines()[-1])
    assert shown[0] == 0, shown
    assert "no such run" not in restored[2]


def test_the_files_of_a_run_have_the_rights_that_umask_gives(trained_once: Any) -> None:
    """A colleague in the group can load an adapter, and start a run in the same store."""
    store = trained_once.database.parent
    modes = {path.name: path.stat().st_mode & 0o777 for path in store.rglob("*.safetensors")}
    assert {"heads.safetensors", "probe.safetensors", "adapter_model.safetensors"} <= set(modes)
    umask = 0o777 & ~(store / "outbox" / "open.lock").stat().st_mode
    assert set(modes.values()) == {0o666 & ~umask}
    assert (store / "outbox.db").stat().st_mode & 0o777 == 0o666 & ~umask
