"""The command line: its commands, and the ways it ends."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loratrack import cli
from loratrack.cli import main, parser

COMMANDS = ("run", "predict", "sync", "cache")


def test_the_help_names_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n    {name} " in shown] == list(COMMANDS)


def test_without_words_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown == parser().format_help()
    assert "Fine-tune many LoRA models and keep track of every one." in shown


@pytest.mark.parametrize("command", [module.__name__.rpartition(".")[2] for module in cli.COMMANDS])
def test_each_command_says_what_it_is_and_how_it_is_called(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    usage, description, *_ = shown.split("\n\n")
    assert usage.startswith(f"usage: loratrack {command}")
    assert description[0].isupper()
    assert description.endswith(".")
    assert re.search(rf"^  (eval \"\$\()?loratrack {command}\b", shown.split("options:")[1], re.MULTILINE)


def test_the_tables_of_a_new_store_are_made_in_silence(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_LOGGING_LEVEL"}
    process = subprocess.run(
        [sys.executable, "-m", "loratrack.cli", "sync"],
        cwd=tmp_path,
        env=environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlruns/mlflow.db"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "mlruns" / "mlflow.db").exists()
    assert process.stderr == ""


@pytest.mark.parametrize("words", [["rnu"], ["predict"], ["run"], ["predict", "--model", "m"]])
def test_words_that_are_no_command_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(words)
    assert "usage: loratrack" in capsys.readouterr().err


def test_a_fault_of_the_user_is_one_message_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "projects/nowhere.yaml"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("loratrack: projects/nowhere.yaml: ")
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "a.yaml", "--set", "train.epochs", "1"],
            "--set train.epochs 1: must be key=value without a space: --set train.epochs=1",
        ),
        (
            ["run", "a.yaml", "--epochs", "1"],
            "--epochs: no such option; it is a setting: --set train.epochs=1",
        ),
        (["run", "a.yaml", "--lr=1e-3"], "--lr: no such option; it is a setting: --set train.lr=1e-3"),
    ],
)
def test_a_setting_given_as_an_option_is_told_how(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"loratrack: {message}\n"


def test_other_words_are_left_to_argparse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "a.yaml", "more", "--wrong-way"])
    assert "unrecognized arguments: more --wrong-way" in capsys.readouterr().err


def test_the_help_needs_no_heavy_library() -> None:
    program = (
        "import sys; from loratrack.cli import parser; parser().format_help();"
        "print([name for name in ('torch', 'mlflow', 'transformers', 'pandas') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


def test_the_cache_is_listed_and_cleared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path))
    assert main(["cache", "ls"]) == 0
    assert capsys.readouterr().out == f"0 entries, 0.00 MiB in {tmp_path / 'tokens'}\n"
    entry = tmp_path / "tokens" / ("a" * 64)
    entry.mkdir(parents=True)
    (entry / "entry.json").write_bytes(b" " * 2**20)
    assert main(["cache", "ls"]) == 0
    assert capsys.readouterr().out.startswith("aaaaaaaaaaaa       1.00 MiB  used 20")
    assert main(["cache", "ls", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    [kept] = content["entries"]
    assert content == {"folder": str(tmp_path / "tokens"), "entries": [kept], "bytes": 2**20}
    assert (kept["key"], kept["bytes"], kept["used"][:2]) == ("a" * 64, 2**20, "20")
    assert main(["cache", "prune", "--days", "1"]) == 0
    assert capsys.readouterr().out == "0 entries, 0.00 MiB deleted\n"
    assert main(["cache", "prune", "--mib", "0.5"]) == 0
    assert capsys.readouterr().out == "1 entry, 1.00 MiB deleted\n"
    assert not entry.exists()
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "0 entries, 0.00 MiB deleted\n"
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": {"entries": [], "bytes": 0}}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the question's own socket
def test_ctrl_c_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pressed while a tracking server takes the question and does not answer."""

    def press(server: socket.socket) -> None:
        held.append(server.accept()[0])
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test worker ignores Ctrl-C
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        presser = threading.Thread(target=press, args=(server,))
        presser.start()
        exit_code = main(["predict", "--model", "models:/x/1", "--text", "calm"])
        presser.join()
    signal.signal(signal.SIGINT, before)
    held[0].close()
    gc.collect()
    assert exit_code == 130
    assert capsys.readouterr().err == "loratrack: interrupted\n"


def test_at_a_terminal_a_server_is_named_before_it_is_asked() -> None:
    """MLflow's client takes seconds to load; nobody should look at an empty screen meanwhile."""
    terminal, stderr = os.openpty()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        program = "from loratrack.cli import main; raise SystemExit(main(['history', 'intents']))"
        with subprocess.Popen(
            [sys.executable, "-c", program], stderr=stderr, env={**os.environ, "MLFLOW_TRACKING_URI": uri}
        ) as process:
            os.close(stderr)
            first_line = b""
            while not first_line.endswith(b"\n"):
                first_line += os.read(terminal, 1000)
            process.kill()
    os.close(terminal)
    assert first_line.decode() == f"asking {uri} …\r\n"


def test_sync_says_what_it_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["sync"]) == 0
    assert capsys.readouterr().out == f"{uri}: 0 sent, 0 waiting\n"
    assert main(["sync", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "store": uri,
        "sent": 0,
        "waiting": 0,
        "busy": [],
        "refused": [],
        "put_off": [],
        "elsewhere": {},
        "fault": None,
    }


@pytest.mark.parametrize("words", [["history", "a\udcff"], ["predict", "--model", "m", "--text", "a\udcff"]])
def test_bytes_that_are_no_text_are_one_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    message = "loratrack: the words of a command must be UTF-8 text, got 'a\\udcff'\n"
    assert capsys.readouterr().err == message
