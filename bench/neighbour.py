"""A training while another program computes: python -m bench.neighbour.

The built-in base, LoRA on CLINC150's two labels. After some steps two loops of matrix products begin, and
compute until the end: steps before, right after, and once the threads were measured again. Then the same
with `train.threads` given, which nothing changes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from loratrack.config import load
from loratrack.training import session
from loratrack.training.log import ListLog

CLINC = Path(__file__).parents[1] / "projects" / "clinc" / "dual.yaml"
LOOP = "import torch; a = torch.randn(1500, 1500)\nwhile True: a @ a"
LOOPS = 2
QUIET_STEPS, BUSY_STEPS = 40, 40
SETTINGS = ("train.layout=packed", "data.test_path=null")


def main() -> None:
    threads = torch.get_num_threads()
    for settings in ((), (f"train.threads={threads}",)):
        torch.set_num_threads(threads)
        print(f"{' '.join(settings) or 'train.threads=null'}: {threads} threads at the start")
        quiet, busy, notices = _steps([*SETTINGS, *settings])
        print(f"  alone                    {1000 * statistics.median(quiet):8.0f} ms a step")
        for name, steps in (("first 5 with neighbours", busy[:5]), ("last 20 with neighbours", busy[-20:])):
            print(f"  {name:24} {1000 * statistics.median(steps):8.0f} ms a step")
        print(f"  all {len(busy)} with neighbours    {sum(busy):8.1f} s")
        for line in notices:
            print(f"  {line}")


def _steps(settings: list[str]) -> tuple[list[float], list[float], list[str]]:
    """Seconds of each step alone and beside the loops, and what was said."""
    config, log = load(CLINC, settings), ListLog()
    with tempfile.TemporaryDirectory() as folder:
        prepared = session.set_up(config, log.notice)
        session.enter(prepared, config, log, Path(folder))
        prepared.network.train()

        def step() -> float:
            started = time.perf_counter()
            prepared.cohort.step()
            return time.perf_counter() - started

        quiet = [step() for _ in range(QUIET_STEPS)]
        log.notices.clear()
        loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(LOOPS)]
        try:
            time.sleep(5)  # they import torch first
            busy = [step() for _ in range(BUSY_STEPS)]
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
    return quiet, busy, log.notices


if __name__ == "__main__":
    main()
