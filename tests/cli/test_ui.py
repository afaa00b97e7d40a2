"""`loratrack ui`: MLflow's pages, opened on the runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from tests.cli.test_read_only import DROP_RIGHTS, set_rights
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


@contextmanager
def serving(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of `loratrack ui` and its address, once it has said it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().removesuffix(f"{RUNS}\n")
    finally:
        process.kill()
        process.communicate()


UI = (sys.executable, "-u", "-m", "loratrack.cli", "ui", "--no-browser", "--port", "0")


@pytest.mark.slow
def test_a_second_server_tells_its_own_address_and_takes_over_the_links(store_of_runs: str) -> None:
    with serving(*UI) as (first, address), serving(*UI, "--host", "0.0.0.0") as (second, own):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", own)
        assert own != address == links.ui()
        assert second.stdout is not None
        assert second.stdout.readline() == (
            "others may ask for a private IP address of this machine; for its name or a public address begin"
            " with MLFLOW_SERVER_ALLOWED_HOSTS='localhost:*,127.0.0.1:*,NAME:*'\n"
        )
        assert second.stdout.readline() == "Ctrl-C ends it\n"
        with urlopen(f"{own}/") as page:
            assert f'location.replace("{RUNS}")' in page.read().decode()
        first.kill()
        first.wait()
        deadline = time.monotonic() + 20
        while links.ui() != own and time.monotonic() < deadline:
            time.sleep(0.1)
        assert links.ui() == own


@pytest.mark.slow
def test_who_may_not_write_is_told_the_right_address(
    store_of_runs: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "mlruns"
    folder.mkdir()
    with (
        closing(sqlite3.connect(store_of_runs.removeprefix("sqlite:///"))) as store,
        closing(sqlite3.connect(folder / "mlflow.db")) as copy,
    ):
        store.backup(copy)
    use(f"sqlite:///{folder}/mlflow.db", monkeypatch, tmp_path)
    ui = "from loratrack.cli import main; main(['ui', '--no-browser', '--port', '0'])"
    set_rights(folder, is_writable=False)
    try:
        with serving(sys.executable, "-u", "-c", DROP_RIGHTS, ui) as (_, address):
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            assert address != links.ui() == "http://127.0.0.1:5000"
            with urlopen(f"{address}/") as page:
                assert f'location.replace("{RUNS}")' in page.read().decode()
    finally:
        set_rights(folder, is_writable=True)


def shown(chromium: str, address: str) -> str:
    """The document as a new browser has it once MLflow's script has run."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update --virtual-time-budget=20000"
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *flags.split(), f"--user-data-dir={profile}", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout
