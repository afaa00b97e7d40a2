from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loratrack.data import cache
from loratrack.errors import UserError

MakeStored = Callable[[], cache.Stored]


def stored(size: int = 100) -> cache.Stored:
    arrays: dict[str, np.ndarray] = {
        "tokens": np.arange(size, dtype=np.int32),
        "types": np.zeros((4, 2), np.uint8),
    }
    return cache.Stored(arrays, {"mean": 2.5})


def never() -> cache.Stored:
    raise AssertionError("built although an entry is there")


def fetch(name: str = "a", build: MakeStored = stored, notices: list[str] | None = None) -> cache.Stored:
    """What the cache gives, and that it is what was asked for."""
    entry = cache.fetch({"name": name}, build, (notices if notices is not None else []).append)
    assert entry.facts == {"mean": 2.5}
    assert (entry.arrays["tokens"] == stored().arrays["tokens"]).all()
    assert entry.arrays["types"].shape == (4, 2)
    return entry


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_entry_is_built_once_and_mapped() -> None:
    first = fetch()
    again = fetch(build=never)
    for entry in (first, again):
        assert isinstance(entry.arrays["tokens"], np.memmap)
        assert not entry.arrays["tokens"].flags.writeable


def test_other_settings_are_another_entry(cache_folder: Path) -> None:
    fetch("a")
    fetch("b")
    assert len(left_in(cache_folder)) == 2


def test_the_key_ignores_the_order_of_settings() -> None:
    assert cache.key_of({"a": 1, "b": 2}) == cache.key_of({"b": 2, "a": 1})
    assert cache.key_of({"a": 1}) != cache.key_of({"a": "1"})


def test_a_build_that_fails_leaves_nothing(cache_folder: Path) -> None:
    with pytest.raises(AssertionError):
        cache.fetch({"name": "a"}, never, print)
    assert left_in(cache_folder) == []


def damages() -> dict[str, Callable[[Path], Any]]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return {
        "an array with one flipped bit": lambda entry: flip(entry / "tokens.npy"),
        "an array cut short": lambda entry: os.truncate(entry / "tokens.npy", 200),
        "an array that is gone": lambda entry: (entry / "types.npy").unlink(),
        "facts with one flipped bit": lambda entry: flip(entry / cache.ENTRY),
        "facts that were changed": lambda entry: (entry / cache.ENTRY).write_text(
            (entry / cache.ENTRY).read_text().replace("2.5", "3.5")
        ),
        "a manifest cut short": lambda entry: os.truncate(entry / cache.ENTRY, 20),
        "a manifest of another shape": lambda entry: (entry / cache.ENTRY).write_text("[1]"),
        "a manifest that is gone": lambda entry: (entry / cache.ENTRY).unlink(),
    }


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_entry_is_built_again_and_said_so(cache_folder: Path, damage: str) -> None:
    fetch()
    (entry,) = cache_folder.iterdir()
    damages()[damage](entry)
    notices: list[str] = []
    fetch(notices=notices)
    assert len(notices) == 1
    assert notices[0].startswith(f"token cache: the entry {entry} is damaged (")
    assert notices[0].endswith("); it is built again")
    fetch(build=never, notices=notices)
    assert len(notices) == 1
    assert left_in(cache_folder) == [entry.name]


def test_every_cut_of_every_file_is_seen(cache_folder: Path) -> None:
    fetch()
    (entry,) = cache_folder.iterdir()
    whole = {path.name: path.read_bytes() for path in entry.iterdir()}
    assert set(whole) == {"tokens.npy", "types.npy", cache.ENTRY}
    for name, content in whole.items():
        for tenth in range(10):
            (entry / name).write_bytes(content[: len(content) * tenth // 10])
            notices: list[str] = []
            fetch(notices=notices)
            assert len(notices) == 1, (name, tenth)


def test_arrays_outlive_their_entry() -> None:
    entry = fetch()
    cache.clear()
    assert entry.arrays["tokens"].tolist() == list(range(100))


def test_entries_are_listed_by_their_last_use(cache_folder: Path) -> None:
    assert cache.entries() == []
    for age, name in enumerate("abc"):
        fetch(name)
        used_days_ago(cache_folder / cache.key_of({"name": name}), age + 1)
    fetch("b", build=never)
    listed = cache.entries()
    assert [entry.key for entry in listed] == [cache.key_of({"name": name}) for name in "bac"]
    assert listed[0].num_bytes == sum(file.stat().st_size for file in listed[0].path.iterdir())
    assert time.time() - listed[0].used_at < 60


def used_days_ago(entry: Path, days: float) -> None:
    at = time.time() - days * 86_400
    os.utime(entry / cache.ENTRY, (at, at))


def test_prune_deletes_what_was_not_used_for_so_long(cache_folder: Path) -> None:
    for days, name in ((1, "a"), (10, "b"), (20, "c")):
        fetch(name)
        used_days_ago(cache_folder / cache.key_of({"name": name}), days)
    gone = cache.prune(max_age_days=5)
    assert {entry.key for entry in gone} == {cache.key_of({"name": name}) for name in "bc"}
    assert left_in(cache_folder) == [cache.key_of({"name": "a"})]


def test_prune_keeps_what_was_used_last_within_the_size(cache_folder: Path) -> None:
    for days, name in ((3, "a"), (1, "b"), (2, "c")):
        fetch(name)
        used_days_ago(cache_folder / cache.key_of({"name": name}), days)
    one = cache.entries()[0].num_bytes
    gone = cache.prune(max_bytes=2 * one + 5)
    assert [entry.key for entry in gone] == [cache.key_of({"name": "a"})]
    assert cache.prune(max_bytes=2 * one + 5) == []
    assert len(cache.prune(max_bytes=0)) == 2
    assert left_in(cache_folder) == []


def test_prune_deletes_the_oldest_first_whatever_their_size(cache_folder: Path) -> None:
    for days, name, size in ((3, "small", 10), (2, "large", 5_000), (1, "newest", 10)):
        cache.fetch({"name": name}, partial(stored, size), print)
        used_days_ago(cache_folder / cache.key_of({"name": name}), days)
    newest, large, small = cache.entries()
    assert cache.prune(max_bytes=newest.num_bytes + large.num_bytes) == [small]
    assert cache.prune(max_bytes=large.num_bytes) == [large]
    assert cache.entries() == [newest]


def test_prune_without_a_limit_deletes_no_entry() -> None:
    fetch()
    assert cache.prune() == []
    assert len(cache.entries()) == 1


def test_clear_deletes_everything_but_a_draft_being_written(cache_folder: Path) -> None:
    fetch()
    (cache_folder / f"{cache.TRASH}1").mkdir()
    young, dead = cache_folder / f"{cache.DRAFT}young", cache_folder / f"{cache.DRAFT}dead"
    young.mkdir()
    dead.mkdir()
    os.utime(dead, (0, 0))
    assert len(cache.clear()) == 1
    assert left_in(cache_folder) == [young.name]


def test_a_cache_that_may_not_be_written_is_reported(cache_folder: Path) -> None:
    cache_folder.parent.mkdir()
    cache_folder.write_text("a file where the folder should be")
    with pytest.raises(UserError) as caught:
        cache.fetch({"name": "a"}, stored, print)
    assert str(caught.value).startswith(f"{cache_folder}: the token cache cannot be written: ")


def run(program: Path, *arguments: object) -> list[dict[str, str]]:
    command = [sys.executable, str(program), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture
def csv_file(tmp_path: Path, rows: Callable[[int], str]) -> Path:
    file = tmp_path / "raw.csv"
    file.write_text(rows(3000))
    return file


def test_two_processes_may_build_the_same_entry_at_once(
    program: Path, csv_file: Path, tmp_path: Path, cache_folder: Path
) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command = [sys.executable, str(program), str(csv_file), "--meet", str(meeting)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(list(meeting.iterdir())) == 2  # both were tokenising
    assert outputs[0] == outputs[1]
    assert "sha256" in outputs[0]
    assert len(left_in(cache_folder)) == 1
    assert run(program, csv_file) == [json.loads(outputs[0])]


def test_a_full_disk_is_reported_wherever_it_strikes_and_leaves_nothing(
    program: Path, csv_file: Path, cache_folder: Path
) -> None:
    limits = [0, 1, 100, 127, 128, 129, 5_000, 20_000, 40_000]
    attempts = run(program, csv_file, "--limits", ",".join(map(str, limits)))
    assert len(attempts) == len(limits)
    for attempt in attempts:
        assert attempt["error"].startswith(
            f"{cache_folder}: the token cache cannot be written: File too large"
        )
        assert attempt["error"].endswith(
            " bytes are needed); free some space (loratrack cache clear),"
            " or set LORATRACK_CACHE to a folder on another disk"
        )
    assert left_in(cache_folder) == []
    assert "sha256" in run(program, csv_file)[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a tmpfs can be mounted only by root, and only where mounting is allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_tmpfs_is_reported_and_left_empty(
    program: Path, csv_file: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATRACK_CACHE", str(small_disk))
    (attempt,) = run(program, csv_file)
    assert attempt["error"].startswith(
        f"{small_disk / 'tokens'}: the token cache cannot be written: No space left on device ("
    )
    assert left_in(small_disk / "tokens") == []
