"""However often and whenever a run is killed, it comes to the end it would have come to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.storm import Storm

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("STORM_KILLS", "50"))
SEED = int(os.environ.get("STORM_SEED", "1"))


def test_no_kill_loses_or_changes_anything(
    sample: Any, empty_database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storm = Storm(sample.config, empty_database, tmp_path, KILLS, SEED)
    storm.rage()
    with capsys.disabled():
        sys.stdout.write(f"\n{storm.table()}\n")
    assert storm.killed.total() >= KILLS
    assert storm.num_checkpoints > 0
    again = f"again with: make chaos STORM_SEED={SEED} STORM_KILLS={KILLS}"
    assert not storm.faults, "\n".join([*storm.faults, again])
