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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from loratrack.data.tokens import Array
from loratrack.disk import sha256_of
from loratrack.errors import UserError
from loratrack.places import cache_folder

FORMAT = 2
"""Another number where texts become other tokens than before."""
ENTRY = "entry.json"
DRAFT, TRASH = ".draft-", ".trash-"
SECONDS_A_DAY = 86_400
DRAFT_IS_DEAD_SECONDS = 3_600
"""A draft is written in one go from memory; one that old was left by a killed process."""


@dataclass(frozen=True)
class Stored:
    arrays: dict[str, Array]
    facts: dict[str, Any]
    """What is worth knowing of the arrays without reading them; JSON."""


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


def key_of(settings: Mapping[str, object]) -> str:
    """The same for the same settings on any machine."""
    return hashlib.sha256(_canonical({"format": FORMAT, **settings})).hexdigest()


def fetch(
    settings: Mapping[str, object], build: Callable[[], Stored], notice: Callable[[str], None]
) -> Stored:
    """What `build` gives for these settings, memory-mapped; built only when no sound entry is there.

    UserError when the entry cannot be written, and then nothing of it is left.
    """
    path = folder() / key_of(settings)
    if path.exists():
        try:
            entry = _load(path)
        except (_DamagedError, FileNotFoundError) as error:  # not found: pruned while it was read
            notice(f"token cache: the entry {path} is damaged ({error}); it is built again")
            _delete(path)
        else:
            with suppress(OSError):  # a cache that may only be read serves as well
                os.utime(path / ENTRY)
            return entry

    stored = build()
    # Not disk.whole_folder: an entry that another process has written meanwhile is not replaced, since
    # others may be reading it, and what a killed process leaves must be known by its name.
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        draft.mkdir(parents=True)
        _delete_leftovers()
        files = {}
        for name, array in stored.arrays.items():
            file = draft / f"{name}.npy"
            with file.open("wb") as opened:
                hashing = _HashingFile(opened)
                np.lib.format.write_array(hashing, array, allow_pickle=False)
            files[file.name] = {"sha256": hashing.sha256.hexdigest(), "bytes": file.stat().st_size}
        body = {"settings": dict(settings), "files": files, "facts": stored.facts}
        manifest = {"body": body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}
        (draft / ENTRY).write_text(json.dumps(manifest), encoding="utf-8")
        entry = _load(draft)  # opened while it has its own name: nobody can prune it in between
        try:
            draft.rename(path)
        except OSError:
            if not path.exists():  # else another process was first, with the same content
                raise
    except OSError as error:
        num_bytes = sum(array.nbytes for array in stored.arrays.values())
        raise UserError(
            f"{path.parent}: the token cache cannot be written: {error.strerror or error}"
            f" ({num_bytes:,} bytes are needed); free some space (loratrack cache clear),"
            " or set LORATRACK_CACHE to a folder on another disk"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return entry


class _HashingFile:
    """A file that hashes what it writes. (numpy writes to a real file by itself, and loses the errno.)"""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)


def _load(path: Path) -> Stored:
    """The entry, every byte of it compared with its manifest; _DamagedError says what is wrong."""
    try:
        manifest = json.loads((path / ENTRY).read_text(encoding="utf-8"))
        body = manifest["body"]
        is_whole = hashlib.sha256(_canonical(body)).hexdigest() == manifest["sha256"]
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        raise _DamagedError(f"{ENTRY} is missing or not whole") from None
    if not is_whole:
        raise _DamagedError(f"{ENTRY} does not match its sha256")
    arrays: dict[str, Array] = {}
    for name, expected in body["files"].items():
        file = path / name
        try:
            num_bytes = file.stat().st_size
            if num_bytes != expected["bytes"]:
                raise _DamagedError(f"{name} has {num_bytes} bytes, not {expected['bytes']}")
            if sha256_of(file) != expected["sha256"]:
                raise _DamagedError(f"{name} does not match its sha256")
        except FileNotFoundError:
            raise _DamagedError(f"{name} is missing") from None
        arrays[name.removesuffix(".npy")] = np.load(file, mmap_mode="r", allow_pickle=False)
    return Stored(arrays, body["facts"])


def entries() -> list[Entry]:
    """All entries, the one used last first."""
    result = []
    for path in _folders():
        if path.name.startswith((DRAFT, TRASH)):
            continue
        try:
            num_bytes = sum(file.stat().st_size for file in path.iterdir())
            result.append(Entry(path.name, path, num_bytes, (path / ENTRY).stat().st_mtime))
        except FileNotFoundError:  # another process deletes it just now, or its manifest is lost
            if path.exists():
                result.append(Entry(path.name, path, 0, 0.0))
    return sorted(result, key=lambda entry: entry.used_at, reverse=True)


def prune(max_age_days: float | None = None, max_bytes: int | None = None) -> list[Entry]:
    """Deletes entries not used for so long, then the ones used longest ago until the rest fits."""
    _delete_leftovers()
    rest = entries()
    oldest = 0.0 if max_age_days is None else time.time() - max_age_days * SECONDS_A_DAY
    old = [entry for entry in rest if entry.used_at < oldest]
    rest = [entry for entry in rest if entry.used_at >= oldest]
    while max_bytes is not None and sum(entry.num_bytes for entry in rest) > max_bytes:
        old.append(rest.pop())
    for entry in old:
        _delete(entry.path)
    return old


def clear() -> list[Entry]:
    """Deletes all entries, and what killed processes left."""
    _delete_leftovers()
    every = entries()
    for entry in every:
        _delete(entry.path)
    return every


def _delete(path: Path) -> None:
    """Renamed away first, so that nobody meets half an entry."""
    trash = path.with_name(f"{TRASH}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def _delete_leftovers() -> None:
    """What killed processes left behind."""
    dead = time.time() - DRAFT_IS_DEAD_SECONDS
    for path in _folders():
        with suppress(FileNotFoundError):
            if path.name.startswith(TRASH) or (path.name.startswith(DRAFT) and path.stat().st_mtime < dead):
                shutil.rmtree(path, ignore_errors=True)


def _folders() -> list[Path]:
    root = folder()
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True).encode()
