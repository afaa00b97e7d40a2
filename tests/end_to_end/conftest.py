"""Runs of `loratrack run` in this process: importing torch and MLflow once saves minutes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loratrack.cli import main


@dataclass(frozen=True)
class Done:
    """What came of one call of `loratrack run`."""

    exit_code: int
    output: str
    errors: str

    @property
    def run_id(self) -> str:
        match = re.search(r": run ([0-9a-f]{32})$", self.output, re.MULTILINE)
        assert match, self.output + self.errors
        return match[1]

    @property
    def version(self) -> int:
        """Of the registered model `tiny`."""
        match = re.search(r"^model +models:/tiny/(\d+)$", self.output, re.MULTILINE)
        assert match, self.output
        return int(match[1])

    @property
    def run(self) -> Any:
        """The run as MLflow has it."""
        from mlflow import MlflowClient

        return MlflowClient().get_run(self.run_id)

    @property
    def artifacts(self) -> Path:
        return Path(self.run.info.artifact_uri)

    @property
    def scores(self) -> dict[str, float]:
        """All metrics but the ones that a clock or a meter gave."""
        return {k: v for k, v in self.run.data.metrics.items() if not k.startswith(("time/", "system/"))}


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def loratrack_run() -> Run:
    """`loratrack run CONFIG --set …`."""

    def run(config: Path, *settings: str) -> Done:
        out, errors = io.StringIO(), io.StringIO()
        words = [word for setting in settings for word in ("--set", setting)]
        with redirect_stdout(out), redirect_stderr(errors):
            exit_code = main(["run", str(config), *words])
        return Done(exit_code, out.getvalue(), errors.getvalue())

    return run


@pytest.fixture(scope="session")
def written(sample: Any) -> Callable[..., Path]:
    """Writes a child of the sample's config beside it: `written("name", key={…})`."""

    def write(name: str, **content: Any) -> Path:
        file = Path(sample.folder / f"{name}.yaml")
        whole = {"base_config": "dual.yaml", "exp_id": name, **content}
        file.write_text(json.dumps(whole, ensure_ascii=False), "utf-8")
        return file

    return write
