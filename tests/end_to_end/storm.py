"""A storm of SIGKILL: tiny trainings, each killed a few times at any moment of its life and begun again.

undisturbed     each kind of training once, to its end: what all others must come to
run 0, run 1 …  `loratrack run --resume auto` in a store of its own, killed, begun again, …, and let go
afterwards      `loratrack doctor --fix`, and whatever is still there is a fault

The moment is uniform over the life of an undisturbed process: start-up, training, files and end are all hit.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests import traces
from tests.forks import ended, lives_for, start
from tests.traces import Learned

SETTINGS = (
    "train.epochs=7; train.lr=0.005; train.eval_steps=4; train.checkpoint_minutes=0.001; baseline=false"
)
"""63 steps, a checkpoint every 60 milliseconds, an evaluation after every fourth step."""
KINDS = {"LoRA": SETTINGS, "full": f"{SETTINGS}; model.use_lora=false; train.lr=0.002"}
FEWEST_KILLS, MOST_KILLS = 2, 6
"""Of one run."""
START, TRAINING, FILES, AFTER = (
    "before the first checkpoint",
    "in training",
    "after training",
    "when finished",
)
PARTS = (START, TRAINING, FILES, AFTER)
AT_ONCE = 2
GONE = -9
"""The exit code of a process that was killed."""


@dataclass(frozen=True)
class Undisturbed:
    learned: Learned
    seconds: float


@dataclass
class Storm:
    """Kills until `kills` are done, and notes what is wrong."""

    config: Path
    empty_database: Path
    folder: Path
    kills: int
    seed: int
    killed: Counter[str] = field(default_factory=Counter)
    """How often in each part of a run's life."""
    num_runs: int = 0
    num_checkpoints: int = 0
    """How many were looked at."""
    faults: list[str] = field(default_factory=list)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def rage(self) -> None:
        ended(start(["--version"], self.folder, self.folder / "version.txt"))  # the parent has to start once
        with ThreadPoolExecutor(AT_ONCE) as pool:
            undisturbed = dict(zip(KINDS, pool.map(self._undisturbed, KINDS), strict=True))
            for lane in [pool.submit(self._runs, undisturbed) for _ in range(AT_ONCE)]:
                lane.result()

    def table(self) -> str:
        """What came of it."""
        parts = {f"  {part}": self.killed[part] for part in PARTS}
        rows = {
            "seed": self.seed,
            "kills": self.killed.total(),
            **parts,
            "runs brought to their end": self.num_runs,
        }
        rows |= {"checkpoints looked at": self.num_checkpoints, "faults": len(self.faults)}
        return "\n".join(f"{name:<34}{value:>8}" for name, value in rows.items())

    def _undisturbed(self, kind: str) -> Undisturbed:
        store, output = self._new_store(f"undisturbed-{kind}")
        began = time.monotonic()
        code = ended(start(self._words(kind), store, output))
        seconds = time.monotonic() - began
        assert code == 0, output.read_text("utf-8")
        [run_id] = traces.statuses(store)
        return Undisturbed(traces.learned(store, run_id), seconds)

    def _runs(self, undisturbed: Mapping[str, Undisturbed]) -> None:
        """One run after the other, while there are kills to be done."""
        while self.killed.total() < self.kills:
            with self._counting:
                number, self.num_runs = self.num_runs, self.num_runs + 1
            kind = list(KINDS)[number % len(KINDS)]
            faults = [*self._one_run(number, kind, undisturbed[kind])]
            folder = self.folder / f"run-{number}"
            self.faults += [f"{kind} run in {folder}: {fault}" for fault in faults]
            if not faults:
                shutil.rmtree(folder)

    def _one_run(self, number: int, kind: str, undisturbed: Undisturbed) -> Iterator[str]:
        """Kill it a few times, let it end, and compare; gives what is wrong."""
        draw = random.Random(f"{self.seed}/{number}")
        store, output = self._new_store(f"run-{number}")
        for _ in range(draw.randint(FEWEST_KILLS, MOST_KILLS)):
            process = start(self._words(kind), store, output)
            if lives_for(process, draw.uniform(0, undisturbed.seconds)):
                process.kill()
            code, checkpoints = ended(process), traces.checkpoints(store)
            with self._counting:
                self.killed[part_of_life(store)] += code == GONE
                self.num_checkpoints += len(checkpoints)
            yield from filter(None, map(traces.fault_of, checkpoints))
            if code not in (GONE, 0):
                yield f"exit code {code}"
            if is_finished(store):  # the same command would begin a new run
                break
        if not is_finished(store) and (code := ended(start(self._words(kind), store, output))):
            yield f"exit code {code} of the last process"
        ended(start(["doctor", "--fix"], store, store.parent / "doctor.txt"))
        yield from compare(store, undisturbed.learned)

    def _words(self, kind: str) -> list[str]:
        return ["run", str(self.config), "--set", KINDS[kind], "--resume", "auto"]

    def _new_store(self, name: str) -> tuple[Path, Path]:
        store = self.folder / name / "mlruns"
        store.mkdir(parents=True)
        shutil.copy(self.empty_database, store / "mlflow.db")
        return store, store.parent / "output.txt"


def is_finished(store: Path) -> bool:
    return "FINISHED" in traces.statuses(store).values()


def part_of_life(store: Path) -> str:
    """How far the run is whose process was killed just now."""
    statuses = traces.statuses(store)
    if is_finished(store):
        return AFTER
    newest = next(reversed(statuses), "")
    own = [path for path in traces.checkpoints(store) if path.parent.name == newest]
    if not own:
        return START
    return FILES if any(traces.is_trained(path) for path in own) else TRAINING


def compare(store: Path, undisturbed: Learned) -> Iterator[str]:
    """What is not as it would be without a kill."""
    statuses = traces.statuses(store)
    finished = [run_id for run_id, status in statuses.items() if status == "FINISHED"]
    if len(finished) != 1:
        yield f"must have one finished run, got {statuses}"
        return
    for run_id in statuses.keys() - finished:  # killed before it had a checkpoint
        num_metrics = len(traces.metrics(store, run_id))
        if statuses[run_id] != "FAILED" or num_metrics:
            yield f"{run_id} is {statuses[run_id]}, has {num_metrics} metrics, and another run was begun"
    own, wanted = (asdict(each) for each in (traces.learned(store, finished[0]), undisturbed))
    for what, values in own.items():
        keys = values.keys() | wanted[what].keys()
        if different := [key for key in keys if values.get(key) != wanted[what].get(key)]:
            yield f"{what} differ from the undisturbed run: {different[:5]}"
    if traces.versions(store) != finished:
        yield f"must have one version, got those of {traces.versions(store)}"
    if doubled := traces.doubled(store):
        yield f"doubled: {doubled[:5]}"
    if leftovers := traces.leftovers(store):
        yield f"left over: {leftovers}"
