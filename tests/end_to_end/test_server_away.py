"""The tracking server dies during a training and is not back at its end: no metric and no version is lost."""

from __future__ import annotations

from typing import Any

import pytest
from tests.tracking import test_outage
from tests.tracking.test_outage import Server, wait_for

from loratrack.cli import main
from loratrack.experiments.loading import load_run
from loratrack.experiments.registration import register
from loratrack.experiments.run import run
from loratrack.experiments.watcher import Nobody
from loratrack.store.client import connect

pytestmark = pytest.mark.slow
server = test_outage.server


class Killer(Nobody):
    def __init__(self, server: Server) -> None:
        self.server = server

    def epoch(self, member: Any) -> None:
        self.server.kill()


def test_a_server_that_is_away_at_the_end_costs_no_version(
    server: Server, sample: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.start()
    wait_for(server.answers)
    config = load_run(sample.config, [])
    result = run(config, Killer(server))
    assert (result.status, result.is_sent, result.version) == ("FINISHED", False, None)
    assert result.metrics["test_avg_f1"] >= 0

    server.start()
    wait_for(server.answers)
    assert main(["sync"]) == 0
    client = connect()
    [version] = client.search_model_versions("name = 'tiny'")
    assert (version.run_id, version.tags["exp_id"]) == (result.run_id, "dual")
    stored = client.get_run(result.run_id)
    assert (stored.info.status, stored.data.metrics["test_avg_f1"]) == (
        "FINISHED",
        result.metrics["test_avg_f1"],
    )
    assert register(result.run_id) == "tiny/1"  # once more is the same version
    capsys.readouterr()
    assert main(["predict", "--model", "models:/tiny/1", "--text", "calm take"]) == 0
    assert "risk: " in capsys.readouterr().out
