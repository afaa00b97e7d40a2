"""Who writes a run is known by a lock on a file, which ends with the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loratrack.store import leases

HOLD = """
import sys
from pathlib import Path
from loratrack.store import leases
lease = leases.take(Path(sys.argv[1]), "run")
print("held" if lease else "taken", flush=True)
sys.stdin.read()
"""


def test_a_lease_is_seen_from_outside_and_ends_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert leases.live_runs(tmp_path) == ["run"]
        assert leases.take(tmp_path, "run") is None
        process.kill()
    assert leases.live_runs(tmp_path) == []
    assert not leases.is_held(tmp_path, "run")
    lease = leases.take(tmp_path, "run")
    assert lease is not None
    lease.close()


CONTEND = """
import os, sys
from pathlib import Path
from loratrack.store import leases
folder = Path(sys.argv[1])
for _ in range(3000):
    lease = leases.take(folder, "run")
    if lease is not None:
        os.close(os.open(folder / "held", os.O_CREAT | os.O_EXCL))  # an error where two hold the lease
        (folder / "held").unlink()
        leases.give_up(folder, "run")
        lease.close()
"""


def test_a_deleted_file_does_not_let_two_hold_the_lease(tmp_path: Path) -> None:
    """One process may open the file just before another one deletes it, and lock what is no lease."""
    processes = [subprocess.Popen([sys.executable, "-c", CONTEND, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_run_that_was_never_written_here_is_not_held(tmp_path: Path) -> None:
    assert not leases.is_held(tmp_path, "run")
    assert leases.live_runs(tmp_path) == []
    assert not leases.locks_folder(tmp_path).exists()
