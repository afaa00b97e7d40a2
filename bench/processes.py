"""Runs one process for each assignment, all at once, and reads their answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from bench.assignment import Answer, Assignment

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 1200


class ProcessFailed(Exception):
    """One of the processes ended badly or took too long; the message holds its last words."""


def run(module: str, assignments: Sequence[Assignment], environment: Mapping[str, str]) -> list[Answer]:
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in assignments]
        errors = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in assignments]
        processes = [
            stack.enter_context(_start(module, assignment, environment, output, error))
            for assignment, output, error in zip(assignments, outputs, errors, strict=True)
        ]
        bad = _wait(processes)
        if bad is not None:
            raise ProcessFailed(f"exit status {processes[bad].returncode}: {_text(errors[bad])[-1500:]}")
        return [Answer.model_validate_json(_text(output).splitlines()[-1]) for output in outputs]


def _start(
    module: str, assignment: Assignment, environment: Mapping[str, str], output: IO[str], error: IO[str]
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, assignment.model_dump_json()],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=output,
        stderr=error,
        text=True,
    )


def _wait(processes: Sequence[subprocess.Popen[str]]) -> int | None:
    """The number of the first process that failed, once none runs any more; None when all went well."""
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        while True:
            statuses = [process.poll() for process in processes]
            failed = [number for number, status in enumerate(statuses) if status]
            if failed:
                return failed[0]
            if None not in statuses:
                return None
            if time.monotonic() > deadline:
                raise ProcessFailed(f"not done after {LIMIT_SECONDS} s")
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
