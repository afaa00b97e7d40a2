"""Where things lie: the same folder, whoever asks and however it is written."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from loratrack import places
from loratrack.data import cache


def test_the_cache_lies_under_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORATRACK_CACHE", raising=False)
    assert places.cache_folder() == Path(platformdirs.user_cache_dir("loratrack"))


@pytest.mark.parametrize("named", ["~/lt", "$HOME/lt", "lt"])
def test_loratrack_cache_means_one_absolute_folder(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORATRACK_CACHE", os.path.expandvars(named))
    assert places.cache_folder() == tmp_path / "lt"
    assert cache.folder() == tmp_path / "lt/tokens"
