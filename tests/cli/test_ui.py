"""`loratrack ui`: MLflow's pages, opened on the runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from tests.stores import use

from loratrack.cli import main
from loratrack.store import links

RUNS = "/#/experiments/1/runs?workflowType=machine_learning"


def test_a_port_that_is_taken_is_told(store_of_runs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"loratrack: --port: cannot listen on 127.0.0.1:{port} (Address already in use); leave it out to get"
        " a free one\n"
    )
    with pytest.raises(SystemExit):
        main(["ui", "--port", "70000"])
    assert "must be a number from 0 to 65535, got '70000'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_is_opened_where_it_is(
    filled_server: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(filled_server, monkeypatch, tmp_path)
    assert main(["ui", "--no-browser"]) == 0
    assert capsys.readouterr().out == f"{filled_server}{RUNS}\n"


@pytest.mark.slow
def test_the_pages_open_on_the_runs_and_end_with_ctrl_c(store_of_runs: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loratrack.cli", "ui", "--no-browser", "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        address = re.fullmatch(rf"(http://127\.0\.0\.1:\d+){re.escape(RUNS)}\n", process.stdout.readline())
        assert address is not None
        assert process.stdout.readline() == "Ctrl-C ends it\n"
        assert (links.ui(), links.is_served()) == (address[1], True)
        with urlopen(f"{address[1]}/") as page:
            text = page.read().decode()
        assert f'location.replace("{RUNS}")' in text
        assert r"metrics.`best_avg_f1`" in text
        if chromium := shutil.which("chromium"):
            text = shown(chromium, f"{address[1]}/")
            assert "matching runs" in text
            assert "best_avg_f1" in text
            assert "Welcome to MLflow" not in text
        assert psutil.Process(process.pid).children() == []
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (rest, process.returncode) == (("", ""), 0)
    assert not links.is_served()


def shown(chromium: str, address: str) -> str:
    """The document as a new browser has it once MLflow's script has run."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --virtual-time-budget=20000"
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *flags.split(), f"--user-data-dir={profile}", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout
