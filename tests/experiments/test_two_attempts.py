"""Two attempts at one run live at once, where a lock means nothing: the older one harms no newer one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from loratrack.checkpoints import FencedError, home_of
from loratrack.errors import RefusedError
from loratrack.experiments import recording, resumption
from loratrack.experiments.loading import load_run
from loratrack.experiments.run import run
from loratrack.experiments.watcher import Nobody
from loratrack.store.place import store_folder
from loratrack.tracking.outbox import work_folder


class TakenOver(Nobody):
    """At the end of its first epoch another attempt begins, with files of its own."""

    def __init__(self) -> None:
        self.run_id = ""
        self.file: Path | None = None

    def notice(self, text: str) -> None:
        if ": run " in text:
            self.run_id = text.rpartition(" ")[2]

    def epoch(self, member: Any) -> None:
        if self.file is None:
            home_of(store_folder(), self.run_id).claim()
            self.file = recording.new_work_folder(self.run_id) / "best"
            self.file.write_text("of the newer attempt")


@pytest.mark.slow
def test_the_older_attempt_stops_and_leaves_files_and_status_to_the_newer(tiny_project: Path) -> None:
    config = load_run(tiny_project / "projects" / "tiny" / "dual.yaml", ["train.checkpoint_minutes=1e-5"])
    watcher = TakenOver()
    with pytest.raises(FencedError, match="attempt 2 has taken this run over, so attempt 1 must not go on"):
        run(config, watcher)
    assert watcher.file is not None
    assert watcher.file.read_text() == "of the newer attempt"
    assert [watcher.file.parent] == list(work_folder(store_folder(), watcher.run_id).iterdir())
    stored = MlflowClient().get_run(watcher.run_id)
    assert (stored.info.status, stored.data.metrics.keys() & {"test_avg_f1"}) == ("RUNNING", set())


@pytest.mark.slow
def test_a_run_that_has_gone_on_meanwhile_is_not_taken_over(tiny_project: Path) -> None:
    """Whoever was slower holds a checkpoint that is gone by now; the quicker one's run stays as it is."""

    class Enough(Exception):
        pass

    class Breaks(TakenOver):
        def epoch(self, member: Any) -> None:
            raise Enough

    config = load_run(tiny_project / "projects" / "tiny" / "dual.yaml", [])
    watcher = Breaks()
    with pytest.raises(Enough):
        run(config, watcher)
    saved, _ = resumption.left_behind(watcher.run_id, watcher.notice)
    resumption.resume(watcher.run_id)
    with pytest.raises(RefusedError, match="another process has gone on with it"):
        resumption.take_over(saved, watcher.notice)
    assert MlflowClient().get_run(watcher.run_id).info.status == "FINISHED"
