"""The same search, ours and a plain Optuna script: python -m bench.sweep

--quick      1,200 rows, 6 trials: under 10 minutes on 2 cores; figures to see that all is well, not to quote
(no flag)    4,500 rows, 16 trials: under 40 minutes
--rows 0     all 15,000 rows of CLINC150: some 2 hours

All contenders train the same trials: they are drawn once, at random, and given to each in the same order.
Each is one process; its wall time counts imports, loading and everything it writes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from bench.assignment import Recipe, Workload
from bench.peers.optuna_script import Search
from loratrack.config.sweep import SweepConfig, load_sweep
from loratrack.tuning import samplers, space

ROOT = Path(__file__).parents[1]
CLINC = ROOT / "projects" / "clinc"
POINTS = 0.005
"""A trial this close to the final best is as good as it."""
SPACE: dict[str, Any] = {
    "model.lora.rank": {"choice": [2, 4, 8, 16, 32]},
    "model.lora.alpha": {"of": "model.lora.rank", "times": [1, 2]},
    "train.lr": {"log": [1e-4, 1e-2]},
    "model.lora.dropout": {"uniform": [0.0, 0.2]},
}
TITLES = {
    "ours": "ours, no pruner",
    "ours_pruned": "ours, asha",
    "one_by_one": "our engine, one trial after the other",
    "plain": "Optuna + Trainer, one after the other",
    "plain_pruned": "Optuna + Trainer, asha",
}
RATIOS = (("plain", "ours_pruned", 8.0), ("plain", "ours", 4.5), ("one_by_one", "ours", 1.9))


@dataclass(frozen=True)
class Finding:
    """What one contender's search came to."""

    seconds: float
    seconds_to_good: float
    best: float
    memory_mb: float
    states: dict[str, int]


def main() -> int:
    arguments = _arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows, trials = (1200, 6) if arguments.quick else (arguments.rows, arguments.trials)
    print(f"load at the start: {os.getloadavg()[0]:.2f}; {rows or 'all'} rows, {trials} trials, 3 epochs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LORATRACK_CACHE"] = str(folder / "cache")
        workload = _workload(folder, rows)
        found: dict[str, Finding] = {}
        for key in arguments.only or TITLES:
            found[key] = _measure(key, folder, workload, trials)
            print(f"{TITLES[key]}: {_line(found[key])}", flush=True)
    for one, other, aim in RATIOS:
        if one in found and other in found:
            ratio = found[one].seconds / found[other].seconds
            print(f"{TITLES[one]} / {TITLES[other]}: {ratio:.2f} (to reach: {aim})")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({key: vars(each) for key, each in found.items()}, indent=1))
    return 0


def _measure(key: str, folder: Path, workload: Workload, trials: int) -> Finding:
    home = folder / key
    (home / "mlruns").mkdir(parents=True)
    pruner = "asha" if key.endswith("pruned") else "none"
    if key.startswith("plain"):
        url = f"sqlite:///{home}/optuna.db"
        command = _plain(
            _config(home, workload, trials, pruner, 1), workload, trials, url, key, pruner == "asha"
        )
    else:
        url = f"sqlite:///{home}/mlruns/optuna.db"
        file = _file(home, workload, trials, pruner, 1 if key == "one_by_one" else "auto")
        command = [sys.executable, "-m", "loratrack.cli", "sweep", str(file)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlruns/mlflow.db"}
    began, clock = datetime.now(), time.perf_counter()
    with (folder / f"{key}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - clock
    if status != 0:
        raise SystemExit((folder / f"{key}.log").read_text("utf-8"))
    return _finding(url, began, seconds, usage.ru_maxrss / 1024)


def _finding(url: str, began: datetime, seconds: float, memory_mb: float) -> Finding:
    (name,) = optuna.get_all_study_names(url)
    trials = optuna.load_study(study_name=name, storage=url).get_trials()
    ends = [
        (trial.datetime_complete, trial.value)
        for trial in trials
        if trial.state.name == "COMPLETE" and trial.datetime_complete is not None and trial.value is not None
    ]
    best = max(value for _, value in ends)
    good = min(end for end, value in ends if value >= best - POINTS)
    states = [trial.state.name.lower() for trial in trials]
    return Finding(
        seconds=seconds,
        seconds_to_good=(good - began).total_seconds(),
        best=best,
        memory_mb=memory_mb,
        states={state: states.count(state) for state in sorted(set(states))},
    )


def _plain(
    config: SweepConfig, workload: Workload, trials: int, url: str, study: str, prune: bool
) -> list[str]:
    recipes = tuple(_recipe(config, number) for number in range(trials))
    search = Search(workload=workload, recipes=recipes, storage=url, study=study, prune=prune)
    return [sys.executable, "-m", "bench.peers.optuna_script", search.model_dump_json()]


def _recipe(config: SweepConfig, number: int) -> Recipe:
    """The trial that our sweep proposes under this number: a random sampler knows no other trials."""
    study = optuna.create_study(sampler=samplers.sampler(config, number))
    run = space.trial_config(config, number, space.sample(study.ask(), config))
    lora = run.model.lora
    return Recipe(
        seed=run.train.seed,
        lr=run.train.peak_rate,
        rank=lora.rank,
        alpha=int(lora.alpha),
        dropout=lora.dropout,
    )


def _config(home: Path, workload: Workload, trials: int, pruner: str, parallel: int | str) -> SweepConfig:
    return load_sweep(_file(home, workload, trials, pruner, parallel))


def _file(home: Path, workload: Workload, trials: int, pruner: str, parallel: int | str) -> Path:
    content = {
        "base_config": str(CLINC / "dual.yaml"),
        "register": False,
        "data": {"raw_data_path": workload.train, "validation_path": workload.validation, "test_path": None},
        "model": {"lora": {"target_modules": ["query", "value"]}},
        "sweep": {
            "name": "bench",
            "trials": trials,
            "sampler": "random",
            "pruner": pruner,
            "parallel": parallel,
            "register": False,
            "space": SPACE,
        },
    }
    file = home / "sweep.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def _workload(folder: Path, rows: int) -> Workload:
    """Rows drawn at random, a fifth as many to validate on, as in the whole set."""
    files = {}
    for name, count in (("train", rows), ("dev", rows // 5)):
        table = pd.read_csv(CLINC / "data" / f"{name}.csv", dtype=str, keep_default_na=False)
        files[name] = folder / f"{name}.csv"
        (table.sample(count, random_state=0) if rows else table).to_csv(files[name], index=False)
    columns = {"domain": "label_domain", "intent": "label_intent"}
    return Workload(
        name="clinc",
        train=str(files["train"]),
        validation=str(files["dev"]),
        test=None,
        columns=columns,
        max_len=64,
    )


def _line(found: Finding) -> str:
    states = ", ".join(f"{count} {state}" for state, count in found.states.items())
    return (
        f"{found.seconds:.0f} s, a trial within {100 * POINTS:g} points of its best after"
        f" {found.seconds_to_good:.0f} s, best avg_f1 {found.best:.4f}, {found.memory_mb:.0f} MB ({states})"
    )


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="see that all is well, in under 10 minutes")
    parser.add_argument("--rows", type=int, default=4500, help="training rows; 0 for all")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--only", nargs="+", choices=TITLES, help="these contenders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures too")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
