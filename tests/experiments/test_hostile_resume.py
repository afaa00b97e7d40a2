"""A checkpoint that names a base of the enemy's, whose code it calls trusted: none of that code is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from tests.bundles import CodedBase
from tests.training.test_hostile_checkpoints import seal

from loratrack.checkpoints import home_of
from loratrack.cli import main
from loratrack.experiments.loading import load_run
from loratrack.experiments.run import run
from loratrack.experiments.watcher import Nobody
from loratrack.places import CONFIG_COPY
from loratrack.store.place import store_folder

pytestmark = pytest.mark.slow


class Broken(Nobody):
    """A process that ends in the middle of its training."""

    def epoch(self, member: Any) -> None:
        raise MemoryError


@pytest.fixture
def config(tiny_project: Path) -> Path:
    return tiny_project / "projects" / "tiny" / "dual.yaml"


@pytest.fixture
def changed(config: Path, coded_base: CodedBase) -> str:
    """The run whose checkpoints were changed."""
    with pytest.raises(MemoryError):
        run(load_run(config, []), Broken())
    (found,) = MlflowClient().search_runs(["1"], "attributes.status = 'FAILED'")
    run_id = str(found.info.run_id)
    for folder in home_of(store_folder(), run_id).folders():
        file = folder / CONFIG_COPY
        mark, _, text = file.read_text("utf-8").partition("\n")
        settings = yaml.safe_load(text)
        settings["model"] |= {"arch": str(coded_base.folder), "trust_remote_code": True}
        file.chmod(0o644)
        file.write_text(f"{mark}\n{yaml.safe_dump(settings, allow_unicode=True)}", "utf-8")
        seal(folder)
    return run_id


def test_what_a_checkpoint_says_of_trust_does_not_count(
    config: Path, changed: str, coded_base: CodedBase, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", changed]) == 2
    assert "--trust-remote-code" in capsys.readouterr().err
    assert not coded_base.has_run()
    assert main(["run", str(config), "--resume", "auto"]) == 0  # as its user's config says, base and all
    assert not coded_base.has_run()
    assert MlflowClient().get_run(changed).info.status == "FINISHED"
