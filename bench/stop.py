"""How long a training takes to end when it is asked to: python -m bench.stop [STOPS].

The built-in base, LoRA on 1,200 rows of CLINC150's two labels, evaluated on 300 after each epoch. A process
of `loratrack run --resume auto`, as a user starts it, gets SIGTERM at a random moment from one second after
its training began: in a step, a save or an evaluation. The next one goes on there. Prints the seconds from
the signal to the end of the process, and the load of the machine.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLINC = Path(__file__).parents[1] / "projects" / "clinc"
ROWS = {"train": 1200, "dev": 300}
SEED = 7
LATEST_SECONDS = 15
"""More than an epoch with its evaluation takes."""
ASKED = 143
"""The exit code after SIGTERM."""


def main(stops: int) -> None:
    draw = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="stop-bench-") as folder:
        config = write_project(Path(folder))
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlruns/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        seconds = []
        for number in range(1, stops + 1):
            moment = draw.uniform(1, LATEST_SECONDS)
            took, where = stop_once(config, environment, moment)
            seconds.append(took)
            load = os.getloadavg()[0]
            print(
                f"{number:>3}  after {moment:4.1f} s, {where:<24}{took:>7.2f} s  load {load:.1f}", flush=True
            )
    last = sorted(seconds)[max(0, round(0.95 * len(seconds)) - 1)]
    print(f"{stops} stops: median {statistics.median(seconds):.2f} s, 95th percentile {last:.2f} s,", end=" ")
    print(f"longest {max(seconds):.2f} s")


def write_project(folder: Path) -> Path:
    """A config and its rows, drawn once; those to evaluate on have no label that is not learned."""
    draw, known = random.Random(SEED), set[str]()
    for part, count in ROWS.items():
        with (CLINC / "data" / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        draw.shuffle(rows)
        rows = [row for row in rows if not known or row["label_intent"] in known][:count]
        known = known or {row["label_intent"] for row in rows}
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    content = {
        "base_config": str(CLINC / "dual.yaml"),
        "exp_id": "stop",
        "data": {
            "raw_data_path": str(folder / "train.csv"),
            "validation_path": str(folder / "dev.csv"),
            "test_path": None,
        },
        "train": {"epochs": 1000, "checkpoint_minutes": 0.1},
    }
    config = folder / "stop.yaml"
    config.write_text(json.dumps(content), "utf-8")  # YAML reads JSON
    return config


def stop_once(config: Path, environment: dict[str, str], moment: float) -> tuple[float, str]:
    """Seconds from the signal to the end, and where the training was, such as `epoch 2.4 of 1000`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loratrack.cli", "run", str(config), "--resume", "auto"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if ": training, " in line:
            break
    time.sleep(moment)
    process.send_signal(signal.SIGTERM)
    asked = time.perf_counter()
    lines += process.stdout
    process.wait()
    took = time.perf_counter() - asked
    assert process.returncode == ASKED, "".join(lines)
    where = re.search(r"stopped \(SIGTERM\) at (epoch \S+ of \d+)", lines[-1])
    assert where, "".join(lines)
    return took, where[1]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
