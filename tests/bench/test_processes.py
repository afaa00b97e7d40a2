"""A process that fails is told, with its last words."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.processes import ProcessFailed, run
from bench.sections import short


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    section = short()
    (assignment,) = section.contenders["ours"].assignments(section.workload, "minilm", 0, tmp_path)
    with pytest.raises(ProcessFailed, match=r"exit status 1: .*No module named bench\.nobody"):
        run("bench.nobody", [assignment, assignment], {})
