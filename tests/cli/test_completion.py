"""`loratrack completion`: what Tab offers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loratrack.cli import main
from loratrack.index.opened import open_tables
from loratrack.index.search import summaries


def offered(capsys: pytest.CaptureFixture[str], *typed: str) -> list[str]:
    assert main(["completion", "words", *typed]) == 0
    return capsys.readouterr().out.splitlines()


def test_commands_options_and_choices_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"run", "sweep", "show"} <= set(offered(capsys, ""))
    assert offered(capsys, "sh") == ["show"]
    assert offered(capsys, "--v") == ["--version"]
    assert offered(capsys, "sweep", "a.yaml", "--pl") == ["--plot"]
    assert offered(capsys, "registry", "") == ["delete", "reconcile"]
    assert offered(capsys, "registry", "delete", "--w") == ["--why"]
    assert offered(capsys, "completion", "") == ["bash", "fish", "zsh"]
    assert offered(capsys, "rnu", "") == []
    assert offered(capsys, "run", "") == []  # a file, which the shell completes


def test_runs_experiments_and_models_are_offered(
    store_of_runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tables() as tables:
        ids = sorted(run.run_id[:8] for run in summaries(tables))
    assert offered(capsys, "show", "exp_v") == ["exp_v1", "exp_v2", "exp_v4", "exp_v5"]
    assert [word for word in offered(capsys, "reproduce", "") if word in ids] == ids
    assert offered(capsys, "promote", "risk") == ["risk/1", "risk/2"]
    assert offered(capsys, "history", "") == ["risk"]
    assert offered(capsys, "rollback", "--model", "r") == ["risk"]
    assert offered(capsys, "rollback", "--why", "r") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_as_the_shell_does(shell: str, store_of_runs: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "loratrack"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m loratrack.cli "$@"\n')
    program.chmod(0o755)
    asked = {
        "bash": 'eval "$(loratrack completion bash)"; COMP_WORDS=(loratrack show exp_v); COMP_CWORD=2;'
        ' _loratrack; printf "%s\\n" "${COMPREPLY[@]}"',
        "zsh": "compdef() { }; compadd() { print -l $found };"
        ' eval "$(loratrack completion zsh)"; words=(loratrack show exp_v); CURRENT=3; _loratrack',
        "fish": "loratrack completion fish | source; complete -C 'loratrack show exp_v'",
    }
    process = subprocess.run(
        [shell, "-c", f"PATH={tmp_path}:$PATH; {asked[shell]}" if shell != "fish" else asked[shell]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == ["exp_v1", "exp_v2", "exp_v4", "exp_v5"], process.stderr
