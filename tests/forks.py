"""Real processes of `loratrack` that need not import torch first: a parent without threads has done so.

process = start(["run", "dual.yaml"], store, output)
process.kill()
ended(process)                                                          # -9
start(words, store, output, Blow("loratrack.checkpoints:Home.publish", signal.SIGKILL, call=2))
"""

from __future__ import annotations

import multiprocessing.connection
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])
LIMIT_SECONDS = 300
_polling = threading.Lock()
"""Python reads the exit code of every child when it starts one, and two readers at once get nonsense."""


@dataclass(frozen=True)
class Blow:
    """The process sends itself a signal at an exact moment: when a function is called, or has returned."""

    function: str
    """`MODULE:NAME`, where it is looked up."""
    signal: signal.Signals
    call: int = 1
    """At which of its calls."""
    is_after: bool = False

    def prepare(self) -> None:
        """From now on this process has a function that strikes."""
        place, _, name = self.function.replace(":", ".").rpartition(".")
        owner = pkgutil.resolve_name(place)
        setattr(owner, name, self._striking(getattr(owner, name)))

    def _striking(self, real: Callable[..., Any]) -> Callable[..., Any]:
        num_calls = 0

        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            strikes = num_calls == self.call
            if strikes and not self.is_after:
                os.kill(os.getpid(), self.signal)
            result = real(*arguments, **named)
            if strikes and self.is_after:
                os.kill(os.getpid(), self.signal)
            return result

        return called


def start(words: Sequence[str], store: Path, output: Path, *blows: Blow) -> BaseProcess:
    """`loratrack WORDS` with the store in this folder; what it prints is added to `output`."""
    process = FORKS.Process(target=_main, args=(words, store, output, blows))
    with _polling:
        process.start()
    return process


def lives_for(process: BaseProcess, seconds: float) -> bool:
    """Wait so long; whether it has not ended by then."""
    return not multiprocessing.connection.wait([process.sentinel], seconds)


def ended(process: BaseProcess) -> int:
    """The exit code; that of a process that a signal has killed is the signal's number below zero."""
    if is_late := lives_for(process, LIMIT_SECONDS):
        process.kill()
    with _polling:
        process.join()
    assert not is_late, f"a process did not end within {LIMIT_SECONDS} s"
    assert process.exitcode is not None
    return process.exitcode


def _main(words: Sequence[str], store: Path, output: Path, blows: Sequence[Blow]) -> None:
    with output.open("ab") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}/mlflow.db"
    for blow in blows:
        blow.prepare()
    from loratrack.cli.__main__ import script

    sys.argv[1:] = words
    script()
