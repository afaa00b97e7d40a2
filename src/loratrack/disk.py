"""Files on disk: written whole or not at all, told apart by sha256, and locks that end with their process.

with whole_file(path) as draft:      # a crash leaves the old file, or none
    draft.write_bytes(...)
with locked(path): ...               # one process of this machine at a time
lease = try_lock(path)               # None: another process holds it; lease.close() gives it back
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

DRAFT_SUFFIX = ".draft"
FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = ("No space left", "File too large", "quota", "disk is full")
FULL_IN_WORDS = ("SafetensorError", "OperationalError")
"""Errors of safetensors and SQLite, which have no code."""


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_json(file: Path) -> Any:
    """What a JSON file holds; ValueError says why it cannot be read, also for one that is nested too deeply.

    What is no regular file is refused: a named pipe would hold its reader forever.
    """
    if not file.is_file():
        raise ValueError("must be a regular file")
    try:
        return json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextmanager
def whole_file(file: Path, *, is_durable: bool = False) -> Iterator[Path]:
    """A draft beside `file` that takes its place when the block ends, and is gone when it fails.

    `is_durable`: on the disk before it is renamed, so that a power cut does not leave an empty file.
    """
    draft = draft_of(file)
    try:
        yield draft
        if is_durable:
            flush(draft)
        draft.replace(file)
        if is_durable:
            flush(file.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty draft beside `folder` that takes its place when the block ends, and is gone when it fails.

    A folder cannot be renamed over another one: the old one is renamed away first, and deleted last.
    """
    draft, old = draft_of(folder), draft_of(folder)
    try:
        draft.mkdir(parents=True)
        yield draft
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(file: Path, text: str, *, mode: int | None = None, is_durable: bool = False) -> None:
    """The whole text or nothing, in UTF-8; `mode` such as 0o444 for a file that nobody changes."""
    with whole_file(file, is_durable=is_durable) as draft:
        draft.write_text(text, encoding="utf-8")
        if mode is not None:
            draft.chmod(mode)


def write_json(file: Path, content: Any, *, is_durable: bool = False) -> None:
    write_text(file, json.dumps(content, ensure_ascii=False, indent=1), is_durable=is_durable)


def draft_of(path: Path) -> Path:
    """A new hidden name beside `path`; no two processes or threads get the same."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}{DRAFT_SUFFIX}")


def is_full(error: BaseException) -> bool:
    """Whether no space was left to write, here or in the cause of it."""
    if isinstance(error, OSError) and error.errno in FULL_CODES:
        return True
    if type(error).__name__ in FULL_IN_WORDS and any(words in str(error) for words in FULL_WORDS):
        return True
    return error.__cause__ is not None and is_full(error.__cause__)


def flush(path: Path) -> None:
    """What was written to this file, or renamed in this folder, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process of this machine at a time. The file stays: deleting it would let two hold the lock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def is_locked(file: Path) -> bool:
    """Whether a living process has taken the lock with `try_lock`; asking needs no right to write."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def try_lock(file: Path) -> IO[bytes] | None:
    """The lock, held until it is closed or the process ends, however it ends; None: somebody has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
