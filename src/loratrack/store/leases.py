"""Leases: the process that writes a run holds a lock file for as long as it lives.

A lock belongs to the file itself, so it is seen through every mount of the folder and from every container,
where process numbers and paths say nothing; and it ends with its process, however that ends.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from loratrack.disk import is_locked, try_lock

SUFFIX = ".lock"


def locks_folder(folder: Path) -> Path:
    return folder / "outbox" / "locks"


def take(folder: Path, run_id: str) -> IO[bytes] | None:
    """The lease of a run, until the file is closed; None while another process has it."""
    file = lock_file(folder, run_id)
    while True:
        lease = try_lock(file)
        if lease is None or _is_at(lease, file):
            return lease
        lease.close()  # whoever held it deleted the file between our opening and locking it


def give_up(folder: Path, run_id: str) -> None:
    """Delete the file of a lease that we hold: the run will never be written again."""
    lock_file(folder, run_id).unlink(missing_ok=True)


def is_held(folder: Path, run_id: str) -> bool:
    """Whether a living process writes this run."""
    return is_locked(lock_file(folder, run_id))


def live_runs(folder: Path) -> list[str]:
    """The runs that living processes write, on this machine or on another one that mounts the folder."""
    names = [file.name.removesuffix(SUFFIX) for file in locks_folder(folder).glob(f"*{SUFFIX}")]
    return sorted(run_id for run_id in names if is_held(folder, run_id))


def lock_file(folder: Path, run_id: str) -> Path:
    return locks_folder(folder) / f"{run_id}{SUFFIX}"


def _is_at(lease: IO[bytes], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lease.fileno()), file.stat())
    except FileNotFoundError:
        return False
