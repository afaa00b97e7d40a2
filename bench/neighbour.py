"""A training while another program computes: python -m bench.neighbour.

The built-in base, LoRA on CLINC150's two labels. After some steps a loop of matrix products begins on as many
threads as torch takes, and computes until the end. First with `train.threads` given, which nothing changes,
then with the number left to us, which is measured again when steps become several times slower.
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
QUIET_STEPS, BUSY_STEPS, MAX_BUSY_SECONDS = 30, 60, 90


def main() -> None:
    threads = torch.get_num_threads()
    for settings in ([f"train.threads={threads}"], []):
        _report(threads, ["train.layout=packed", "data.test_path=null", *settings])


def _report(threads: int, settings: list[str]) -> None:
    config, log = load(CLINC, settings), ListLog()
    with tempfile.TemporaryDirectory() as folder:
        prepared = session.set_up(config, log.notice)
        session.enter(prepared, config, log, Path(folder))
        prepared.network.train()
        torch.set_num_threads(threads)  # as where the machine was quiet when it was measured
        print(f"train.threads={config.train.threads}: begins with {threads}")

        def step() -> float:
            started = time.perf_counter()
            prepared.cohort.step()
            return time.perf_counter() - started

        quiet = [step() for _ in range(QUIET_STEPS)]
        log.notices.clear()
        with subprocess.Popen([sys.executable, "-c", LOOP]) as loop:
            time.sleep(5)  # it imports torch first
            busy, began = list[float](), time.perf_counter()
            while len(busy) < BUSY_STEPS and time.perf_counter() - began < MAX_BUSY_SECONDS:
                busy.append(step())
            loop.kill()
    print(f"  alone                         {1000 * statistics.median(quiet):7.0f} ms a step")
    print(f"  the first 5 with a neighbour  {1000 * statistics.median(busy[:5]):7.0f} ms a step")
    print(f"  the last 20 with a neighbour  {1000 * statistics.median(busy[-20:]):7.0f} ms a step")
    print(f"  {len(busy)} steps with a neighbour in {sum(busy):.1f} s")
    for line in log.notices:
        print(f"  {line}")


if __name__ == "__main__":
    main()
