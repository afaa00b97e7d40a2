"""A trainer without a network: tells one metric a step until the file `enough` appears.

It saves its step every few steps, as a checkpoint would, so after a SIGKILL it tells some steps again.
"""

import sys
import time
from pathlib import Path

from loratrack.tracking.writer import RunWriter

STEP_SECONDS = 0.01
CHECKPOINT_STEPS = 25


def value(step: int) -> float:
    return 1 / (step + 1)


def main(folder: Path) -> None:
    checkpoint, enough = folder / "checkpoint", folder / "enough"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    run = RunWriter.start(name="exp_outage", params={"train.lr": 2e-5}, tags={"exp_id": "exp_outage"})
    slowest = 0.0
    while not enough.exists():
        began = time.perf_counter()
        run.log_metrics({"loss": value(step), "accuracy": 1 - value(step)}, step)
        slowest = max(slowest, time.perf_counter() - began)
        time.sleep(STEP_SECONDS)
        step += 1
        if step % CHECKPOINT_STEPS == 0:
            draft = checkpoint.with_suffix(".draft")
            draft.write_text(str(step))
            draft.rename(checkpoint)
    (folder / "last_step").write_text(str(step))
    (folder / "slowest_call_seconds").write_text(str(slowest))
    plots = folder / "plots"
    plots.mkdir()
    (plots / "loss.txt").write_text("falling")
    run.log_artifacts(plots)
    sys.exit(0 if run.finish("FINISHED", wait_seconds=30) else 3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
