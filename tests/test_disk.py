"""Files are written whole or not at all, and a lock ends with the process that holds it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from loratrack.disk import sha256_of, try_lock, whole_file, whole_folder, write_text


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old", is_durable=True)

    def fail() -> None:
        with whole_file(file) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_old_folder_and_no_draft(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with whole_folder(folder) as draft:
        (draft / "old").touch()

    def fail() -> None:
        with whole_folder(folder) as draft:
            (draft / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "old"]
    with whole_folder(folder) as draft:
        (draft / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_a_file_may_be_read_only(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "高", mode=0o444)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o444
    assert sha256_of(tmp_path / "a") == hashlib.sha256("高".encode()).hexdigest()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from loratrack.disk import try_lock;"
        " held = try_lock(Path(sys.argv[1])); print(held is not None, flush=True); time.sleep(60)"
    )
    file = tmp_path / "a.lock"
    with subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert try_lock(file) is None
        other.kill()
    held = try_lock(file)
    assert held is not None
    held.close()
