"""The token cache: arrays under a key of everything they depend on; deleting it costs only time.

An entry is a folder that is whole or not there: it is written beside its place, its `entry.json` with
sha256 and size of every array last, and renamed. An entry that does not match its `entry.json` is
built again. Any number of processes may read, build and prune at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from loratrack.errors import UserError
from loratrack.places import cache_folder

FORMAT = 1
ENTRY = "entry.json"
DRAFT, TRASH = ".draft-", ".trash-"
SECONDS_A_DAY = 86_400
DRAFT_IS_DEAD_SECONDS = 3_600
"""A draft is written in one go from memory; one that old was left by a killed process."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Stored:
    arrays: dict[str, Array]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    key: str
    path: Path
    num_bytes: int
    used_at: float
    """Seconds since 1970 of the last use."""


class _DamagedError(Exception):
    """An entry does not hold what its manifest says."""


def folder() -> Path:
    """Where the entries are."""
    return cache_folder() / "tokens"


def key_of(settings: Mapping[str, Any]) -> str:
    """The same for the same settings on any machine."""
    return hashlib.sha256(_canonical({"format": FORMAT, **settings})).hexdigest()


def fetch(settings: Mapping[str, Any], build: Callable[[], Stored], notice: Callable[[str], None]) -> Stored:
    """What `build` gives for these settings, memory-mapped; built only when no sound entry is there.

    UserError when the entry cannot be written, and then nothing of it is left.
    """
    key = key_of(settings)
    path = folder() / key
    if path.exists():
        try:
            stored = _load(path)
        except (_DamagedError, FileNotFoundError) as error:  # not found: pruned while it was read
            notice(f"token cache: the entry {path} is damaged ({error}); it is built again")
            _delete(path)
        else:
            with suppress(OSError):  # a cache that may only be read serves as well
                os.utime(path / ENTRY)
            return stored
    return _keep(path, settings, build())


def entries() -> list[Entry]:
    """All entries, the one used last first."""
    found = [entry for path in _folders(folder()) if (entry := _entry(path)) is not None]
    return sorted(found, key=lambda entry: entry.used_at, reverse=True)


def prune(max_age_days: float | None = None, max_bytes: int | None = None) -> list[Entry]:
    """Deletes entries not used for so long, then the ones used longest ago until the rest fits."""
    _sweep()
    kept = entries()
    oldest = 0.0 if max_age_days is None else time.time() - max_age_days * SECONDS_A_DAY
    gone = [entry for entry in kept if entry.used_at < oldest]
    kept = [entry for entry in kept if entry.used_at >= oldest]
    while max_bytes is not None and sum(entry.num_bytes for entry in kept) > max_bytes:
        gone.append(kept.pop())
    for entry in gone:
        _delete(entry.path)
    return gone


def clear() -> list[Entry]:
    """Deletes all entries, and what killed processes left."""
    _sweep()
    gone = entries()
    for entry in gone:
        _delete(entry.path)
    return gone


def _keep(path: Path, settings: Mapping[str, Any], stored: Stored) -> Stored:
    """Writes the entry and opens it while it still has its own name: nobody can prune it in between."""
    num_bytes = sum(array.nbytes for array in stored.arrays.values())
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{secrets.token_hex(8)}")
    with _told_when_unwritable(path, num_bytes), _removed_at_the_end(draft):
        draft.mkdir(parents=True)
        _sweep()
        _write(draft, settings, stored)
        opened = _load(draft)
        _rename_unless_there(draft, path)
    return opened


@contextmanager
def _told_when_unwritable(path: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path.parent}: the token cache cannot be written: {error.strerror or error}"
            f" ({num_bytes:,} bytes are needed); free some space (loratrack cache clear),"
            " or set LORATRACK_CACHE to a folder on another disk"
        ) from None


@contextmanager
def _removed_at_the_end(draft: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename_unless_there(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError:
        if not path.exists():  # else another process was first, with the same content
            raise


def _write(draft: Path, settings: Mapping[str, Any], stored: Stored) -> None:
    files = {
        f"{name}.npy": _write_array(draft / f"{name}.npy", stored.arrays[name]) for name in stored.arrays
    }
    body = {"settings": dict(settings), "files": files, "facts": stored.facts}
    manifest = {"body": body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}
    (draft / ENTRY).write_text(json.dumps(manifest), encoding="utf-8")


def _write_array(path: Path, array: Array) -> dict[str, Any]:
    with path.open("wb") as file:
        digested = _Digested(file)
        np.lib.format.write_array(digested, array, allow_pickle=False)
    return {"sha256": digested.sha256.hexdigest(), "bytes": path.stat().st_size}


class _Digested:
    """A file that hashes what it writes. (numpy writes to a real file by itself, and loses the errno.)"""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)


def _load(path: Path) -> Stored:
    body = _manifest(path)
    arrays = {
        name.removesuffix(".npy"): _load_array(path / name, body["files"][name]) for name in body["files"]
    }
    return Stored(arrays, body["facts"])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / ENTRY).read_text(encoding="utf-8"))
        body: dict[str, Any] = manifest["body"]
        if hashlib.sha256(_canonical(body)).hexdigest() != manifest["sha256"]:
            raise _DamagedError(f"{ENTRY} does not match its sha256")
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        raise _DamagedError(f"{ENTRY} is missing or not whole") from None
    return body


def _load_array(path: Path, expected: Mapping[str, Any]) -> Array:
    try:
        if path.stat().st_size != expected["bytes"]:
            raise _DamagedError(f"{path.name} has {path.stat().st_size} bytes, not {expected['bytes']}")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise _DamagedError(f"{path.name} is missing") from None
    if sha256 != expected["sha256"]:
        raise _DamagedError(f"{path.name} does not match its sha256")
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True).encode()


def _folders(root: Path) -> Iterable[Path]:
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []


def _entry(path: Path) -> Entry | None:
    if path.name.startswith((DRAFT, TRASH)):
        return None
    try:
        num_bytes = sum(file.stat().st_size for file in path.iterdir())
        used_at = (path / ENTRY).stat().st_mtime
    except FileNotFoundError:  # another process deletes it just now, or its manifest is lost
        return Entry(path.name, path, 0, 0.0) if path.exists() else None
    return Entry(path.name, path, num_bytes, used_at)


def _delete(path: Path) -> None:
    """Renamed away first, so that nobody meets half an entry."""
    trash = path.with_name(f"{TRASH}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def _sweep() -> None:
    """Deletes what killed processes left behind."""
    dead = time.time() - DRAFT_IS_DEAD_SECONDS
    for path in _folders(folder()):
        with suppress(FileNotFoundError):
            if path.name.startswith(TRASH) or (path.name.startswith(DRAFT) and path.stat().st_mtime < dead):
                shutil.rmtree(path, ignore_errors=True)
