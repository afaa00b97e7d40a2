import json
import subprocess
from pathlib import Path

import pytest

from loratrack.tracking.environment import cpu_model, device_name, environment, git, packages


def test_the_environment_tells_what_a_run_depends_on() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["packages"] == packages()
    assert {"mlflow", "torch", "loratrack"} <= set(facts["packages"])
    assert facts["torch"]["version"]
    assert set(facts["gpu"]) == {"driver", "cuda", "devices"}
    assert facts["cpu"]["model"] == cpu_model()


def test_the_device_has_a_name() -> None:
    assert device_name()


def test_git_tells_the_commit_and_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q", "-b", "main"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *identity, *command], check=True)
    clean = git()
    assert clean is not None
    assert (clean["branch"], clean["dirty"], clean["diff"], clean["remote"]) == ("main", False, "", None)
    assert len(clean["commit"]) == 40
    (tmp_path / "数据.csv").write_text("text,label\n")
    subprocess.run(["git", "add", "."], check=True)
    dirty = git()
    assert dirty is not None
    assert dirty["dirty"]
    assert "+text,label" in dirty["diff"]


def test_outside_a_repository_there_is_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git() is None
