import math
import multiprocessing
import os
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from loratrack.errors import StoreError
from loratrack.tracking.outbox import Outbox, work_folder, work_folders

STORE = "http://127.0.0.1:5000"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path, STORE)
    yield outbox
    outbox.close()


def keep(folder: Path) -> None:
    pass


def all_rows(outbox: Outbox, run_id: str = "r") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    while batch := outbox.next_rows(run_id, limit=100):
        rows += [(row.kind, row.content) for row in batch]
        outbox.settle(batch, refused={})
    return rows


def test_rows_come_out_in_the_order_they_went_in(outbox: Outbox) -> None:
    outbox.add("r", "params", {"a": 1})
    outbox.add_metrics("r", {"f1": 0.5}, step=1)
    outbox.add_metrics("r", {"f1": 0.6}, step=2)
    outbox.add("r", "status", "KILLED")
    assert all_rows(outbox) == [
        ("params", {"a": 1}),
        ("metrics", {"f1": 0.5}),
        ("metrics", {"f1": 0.6}),
        ("status", "KILLED"),
    ]
    assert outbox.runs() == []


def test_a_step_told_again_is_told_once_even_after_it_was_sent(outbox: Outbox) -> None:
    outbox.add_metrics("r", {"loss": 0.5, "nan": math.nan}, step=1)
    all_rows(outbox)
    assert outbox.add_metrics("r", {"loss": 0.5, "nan": math.nan, "f1": 0.7}, step=1) == {}
    assert all_rows(outbox) == [("metrics", {"f1": 0.7})]


def test_the_first_value_of_a_step_stays_and_a_different_one_is_told(outbox: Outbox) -> None:
    outbox.add_metrics("r", {"loss": 0.5}, step=1)
    assert outbox.add_metrics("r", {"loss": 0.6}, step=1) == {"loss": 0.5}
    assert all_rows(outbox) == [("metrics", {"loss": 0.5})]


def test_runs_and_stores_do_not_mix(outbox: Outbox, tmp_path: Path) -> None:
    other = Outbox(tmp_path, "http://elsewhere")
    outbox.add("a", "tags", {"x": "1"})
    other.add("b", "tags", {"x": "2"})
    other.add("b", "tags", {"x": "3"})
    assert (outbox.runs(), other.runs()) == (["a"], ["b"])
    assert outbox.elsewhere() == {"http://elsewhere": 2}
    other.close()


def test_refused_rows_wait_for_an_explicit_retry(outbox: Outbox) -> None:
    outbox.add("r", "tags", {"x": "1"})
    rows = outbox.next_rows("r", limit=10)
    outbox.settle(rows, refused={rows[0].id: "no such run"})
    assert (outbox.runs(), outbox.count("refused", "r")) == ([], 1)
    assert outbox.reasons("refused") == [("r", "no such run")]
    outbox.retry_refused()
    assert outbox.runs() == ["r"]


def test_the_next_step_follows_the_last_of_that_area(outbox: Outbox) -> None:
    assert outbox.next_step("r", "system/") == 0
    outbox.add_metrics("r", {"system/cpu": 1.0}, step=4)
    outbox.add_metrics("r", {"loss": 1.0}, step=9)
    assert outbox.next_step("r", "system/") == 5


@pytest.mark.parametrize(("status", "left"), [("FINISHED", 0), ("KILLED", 1)])
def test_only_a_finished_run_is_forgotten(outbox: Outbox, status: str, left: int) -> None:
    """A killed one may resume, and then its steps must be known."""
    outbox.add_metrics("r", {"loss": 1.0}, step=3)
    outbox.add("r", "status", status)
    outbox.forget_finished("r")
    assert outbox.count("waiting", "r") == 2
    all_rows(outbox)
    outbox.forget_finished("r")
    assert outbox.next_step("r", "loss") == (4 if left else 0)


def test_a_lease_is_held_by_one(outbox: Outbox) -> None:
    lease = outbox.lease("r")
    assert lease is not None
    assert outbox.lease("r") is None
    lease.close()
    again = outbox.lease("r")
    assert again is not None
    again.close()


def test_spooled_files_survive_their_folder_and_go_when_sent(outbox: Outbox, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    (source / "a.txt").write_text("a")
    outbox.add_artifacts("r", source)
    (source / "a.txt").unlink()
    [row] = outbox.next_rows("r", limit=10)
    assert (outbox.spooled(row) / "a.txt").read_text() == "a"
    outbox.settle([row], refused={})
    assert not outbox.spooled(row).exists()


def write_at_once(folder: Path, number: int, start: "multiprocessing.synchronize.Event") -> None:
    start.wait()
    outbox = Outbox(folder, STORE)
    for step in range(20):
        outbox.add_metrics(f"run{number}", {"loss": 1.0}, step)


def test_eight_processes_may_open_a_new_outbox_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Event()
    writers = [context.Process(target=write_at_once, args=(tmp_path, n, start)) for n in range(8)]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    outbox = Outbox(tmp_path, STORE)
    assert outbox.count("waiting") == 160
    outbox.close()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond this many bytes."""
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old_limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)


def size_of(outbox: Outbox) -> int:
    return sum(file.stat().st_size for file in outbox.folder.glob("outbox.db*"))


def test_a_full_disk_is_told_in_one_line(outbox: Outbox) -> None:
    size = size_of(outbox)
    with (
        full_disk(size),
        pytest.raises(StoreError, match=r"outbox\.db: the outbox of metrics must be writable, got"),
    ):
        outbox.add("r", "tags", {"x": "y" * 10 * size})


def test_files_that_were_handed_over_on_a_full_disk_are_sent_when_there_is_space(
    outbox: Outbox, tmp_path: Path
) -> None:
    """There is no space for the row of the journal; the files have moved, and the next process finds them."""
    work = work_folder(tmp_path, "r") / "artifacts"
    work.mkdir(parents=True)
    (work / "adapter.bin").write_bytes(b"weights")
    outbox.add("r", "tags", {"exp_id": "exp_v1"})
    all_rows(outbox)
    with full_disk(0), pytest.raises(StoreError):
        outbox.take_artifacts("r", work)
    assert outbox.runs() == []
    other = Outbox(tmp_path, "http://127.0.0.1:5001")
    other.clean()  # the run is not one of this store
    assert other.runs() == []
    other.close()
    outbox.clean()
    [row] = outbox.next_rows("r", 10)
    assert (outbox.spooled(row) / "adapter.bin").read_bytes() == b"weights"
    outbox.clean()
    assert outbox.count("waiting", "r") == 1


def test_what_dead_processes_have_left_goes(outbox: Outbox, tmp_path: Path) -> None:
    for run_id in ("living", "dead"):
        (work_folder(tmp_path, run_id) / "artifacts").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    outbox.add_artifacts("sent", tmp_path / "files")
    [row] = outbox.next_rows("sent", 10)
    outbox.settle([row], refused={})
    outbox.spooled(row).mkdir()  # a process that was killed before it deleted the folder
    draft = outbox.spooled(row).with_name("killed-1.draft")
    draft.mkdir()
    os.utime(draft, (0, 0))
    lease = outbox.lease("living")
    assert lease is not None
    outbox.clean()
    assert [folder.name for folder in work_folders(tmp_path)] == ["living"]
    assert list(draft.parent.iterdir()) == []
    lease.close()


def test_rows_of_old_runs_go_when_all_is_sent(outbox: Outbox) -> None:
    for run_id in ("old", "unsent", "new"):
        outbox.add(run_id, "status", "KILLED")
    for run_id in ("old", "new"):
        outbox.settle(outbox.next_rows(run_id, 10), refused={})
    with closing(sqlite3.connect(outbox.file)) as database, database:
        database.execute("UPDATE rows SET timestamp_ms = 1 WHERE run_id != 'new'")
    outbox.clean()
    with closing(sqlite3.connect(outbox.file)) as database:
        runs = database.execute("SELECT run_id FROM rows ORDER BY id").fetchall()
    assert runs == [("unsent",), ("new",)]
