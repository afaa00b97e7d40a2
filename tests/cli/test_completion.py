"""`loratrack completion`: what Tab offers."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loratrack.cli import main
from loratrack.index.opened import open_tables
from loratrack.index.search import summaries
from loratrack.store.client import ensure_experiment


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


NAME = "my model; touch run * $HOME"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("show my", ["show", NAME]),
        ("show my\\ mo", ["show", NAME]),
        ("show 'my mo", ["show", "my mo"]),  # within quotes it is not offered: `$` means something there
        ('show "plain o', ["show", "plain one"]),
    ],
)
def test_a_name_becomes_one_word_in_a_living_bash(
    typed: str, words: list[str], client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = ensure_experiment("loratrack")
    for name in (NAME, "plain one"):
        client.create_run(experiment, run_name="r", tags={"exp_id": name})
    program = tmp_path / "loratrack"
    program.write_text(
        f"""#!/bin/sh
[ "$1" = completion ] && exec {sys.executable} -m loratrack.cli "$@"
printf "[%s]\\n" "$@" > {tmp_path}/answer
"""
    )
    program.chmod(0o755)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    main_end, shell_end = pty.openpty()
    quote = typed.split(" ")[1][0] if " " in typed and typed.split(" ")[1][0] in "'\"" else ""
    close = quote if words[-1] == "my mo" else ""  # where it completes, readline closes the quote
    lines = f'eval "$(loratrack completion bash)"\nloratrack {typed}\t{close}\nexit\n'
    process = subprocess.Popen(
        ["bash", "--norc", "-i"], stdin=shell_end, stdout=shell_end, stderr=shell_end, start_new_session=True
    )
    os.close(shell_end)
    os.write(main_end, lines.encode())
    screen = b""
    while True:
        try:
            part = os.read(main_end, 4096)
        except OSError:  # the shell has ended
            break
        if not part:
            break
        screen += part
    assert process.wait(timeout=20) == 0
    os.close(main_end)
    answer = (tmp_path / "answer").read_text("utf-8").splitlines()
    assert answer == [f"[{word}]" for word in words], screen.decode()
    assert list((tmp_path / "empty").iterdir()) == []
