"""`loratrack sweep` on a tiny base: its runs in MLflow, its continuation, its failures, its dead."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from tests import traces
from tests.forks import Blow, ended, start

from loratrack.cli import main

pytestmark = pytest.mark.slow

SPACE: dict[str, Any] = {
    "model.lora.rank": {"choice": [2, 4, 8]},
    "model.lora.target_modules": {"choice": [["query", "value"], "all-linear"]},
    "train.lr": {"log": [1e-3, 5e-2]},
    "train.loss_weight": "simplex",
    "model.lora.dropout": {"uniform": [0.0, 0.2]},
}


@dataclass(frozen=True)
class Store:
    """A store of its own, and what is in it."""

    folder: Path
    sample: Any

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def studies(self) -> str:
        return f"sqlite:///{self.folder}/optuna.db"

    def write(self, name: str, **sweep: Any) -> Path:
        """A sweep's config beside the sample's own."""
        whole = {"trials": 4, "pruner": "none", "space": SPACE, **sweep, "name": name}
        run = whole.pop("run", {})
        file = Path(self.sample.folder / f"{name}.yaml")
        content = {"base_config": "dual.yaml", "register": "swept", **run, "sweep": whole}
        file.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
        return file

    def trials(self, name: str) -> list[Any]:
        storage = optuna.storages.RDBStorage(self.studies)
        try:
            return list(optuna.load_study(study_name=name, storage=storage).get_trials())
        finally:
            storage.engine.dispose()

    def parent(self, name: str) -> Any:
        (found,) = [run for run in self.runs() if run.info.run_name == name]
        return found

    def children(self, name: str) -> dict[str, Any]:
        parent = self.parent(name).info.run_id
        return {
            run.info.run_name: run for run in self.runs() if run.data.tags.get("mlflow.parentRunId") == parent
        }

    def runs(self) -> list[Any]:
        return list(MlflowClient(self.uri).search_runs(["1"], max_results=1000))


@pytest.fixture(scope="module")
def store(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(tmp_path_factory.mktemp("sweeps") / "mlruns", sample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", made.uri)
        yield made


def call(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main(words)
    return code, out.getvalue()


@dataclass(frozen=True)
class Done:
    code: int
    output: str
    parent: Any
    children: dict[str, Any]
    trials: list[Any]


@pytest.fixture(scope="module")
def done(store: Store) -> Done:
    """Six trials for two bases, three at once, the losers pruned, the best trained again."""
    varied = {**SPACE, "data.max_len": {"choice": [16, 32]}, "train.lr": {"log": [1e-5, 5e-2]}}
    run = {"train": {"epochs": 3}}
    sweep = {"trials": 6, "pruner": "asha", "parallel": 3, "retrain_best": 2, "space": varied, "run": run}
    code, output = call("sweep", str(store.write("found", **sweep)))
    return Done(code, output, store.parent("found"), store.children("found"), store.trials("found"))


def artifacts(run: Any) -> set[str]:
    folder = Path(run.info.artifact_uri)
    return {path.name for path in folder.iterdir()}


def test_every_trial_ends_in_the_study_and_in_mlflow(done: Done) -> None:
    assert done.code == 0, done.output
    names = {f"found-{number}" for number in range(6)}
    assert set(done.children) == names | {"found-best-seed-43", "found-best-seed-44"}
    statuses = {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}
    for trial in done.trials:
        run = done.children[f"found-{trial.number}"]
        assert run.info.status == statuses[trial.state.name]
        assert run.info.run_id == trial.user_attrs["run_id"]
        assert run.data.params["train.lr"] == str(trial.params["train.lr"])
    assert {trial.state.name for trial in done.trials} == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("name", ["found-1", "found-2", "found-best-seed-44"])
def test_a_trial_by_itself_gives_its_metrics(done: Done, name: str) -> None:
    code, output = call("reproduce", done.children[name].info.run_id, "--check")
    assert code == 0, output
    assert "trained: then beside the other trials of its sweep, now alone" in output
    assert "within 0.02" in output
    assert "every metric of every epoch is equal" in output


def test_the_parent_tells_the_best_trial(done: Done, store: Store) -> None:
    best = max((t for t in done.trials if t.state.name == "COMPLETE"), key=lambda t: t.value)
    tags, metrics = done.parent.data.tags, done.parent.data.metrics
    assert (tags["best_trial"], tags["best_run_id"]) == (str(best.number), best.user_attrs["run_id"])
    assert tags["best.train.lr"] == str(best.params["train.lr"])
    assert metrics["best_avg_f1"] == metrics["avg_f1"] == pytest.approx(best.value)
    told = MlflowClient(store.uri).get_metric_history(done.parent.info.run_id, "trial/avg_f1")
    finished = {t.number: pytest.approx(t.value) for t in done.trials if t.state.name == "COMPLETE"}
    assert {point.step: point.value for point in told} == finished
    (version,) = MlflowClient(store.uri).search_model_versions("name='swept'")
    assert tags["best_version"] == f"models:/swept/{version.version}"
    assert version.run_id == best.user_attrs["run_id"]
    assert done.parent.info.status == "FINISHED"
    assert artifacts(done.parent) == {"sweep.html", "plots", "best_config.yaml", "sweep_copy.yaml"}


def test_the_best_trial_is_trained_again_with_other_seeds(done: Done) -> None:
    again = [done.children[f"found-best-seed-{seed}"] for seed in (43, 44)]
    values = [run.data.metrics["best_avg_f1"] for run in again]
    metrics = done.parent.data.metrics
    assert metrics["retrained_avg_f1_mean"] == pytest.approx(sum(values) / 2)
    assert metrics["retrained_avg_f1_sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert f"avg_f1 {sum(values) / 2:.4f} ±" in done.output


@pytest.fixture(scope="module")
def alone(done: Done, store: Store) -> tuple[Any, Any]:
    """A trial's run, and the run that its frozen config alone gives."""
    trial = next(trial for trial in reversed(done.trials) if trial.state.name == "COMPLETE")
    name = f"found-{trial.number}"
    before = done.children[name]
    code, output = call("run", str(Path(before.info.artifact_uri) / "config_copy.yaml"))
    assert code == 0, output
    again = [
        run
        for run in store.runs()
        if run.data.tags["exp_id"] == name and run.info.run_id != before.info.run_id
    ]
    return before, again[0]


def test_a_trial_alone_gives_its_metrics_again(alone: tuple[Any, Any]) -> None:
    before, again = (
        {k: v for k, v in run.data.metrics.items() if "/" not in k or "loss" in k} for run in alone
    )
    assert len(before) > 20
    assert again == pytest.approx(before, abs=1e-4)


def test_a_trial_leaves_what_a_run_leaves_but_for_pictures(done: Done, alone: tuple[Any, Any]) -> None:
    as_trial, as_run = map(artifacts, alone)
    best = alone[0].info.run_id == done.parent.data.tags["best_run_id"]
    assert as_trial | ({"plots"} - as_trial) == as_run
    assert ("plots" in as_trial) == best
    without_weights = {"config_copy.yaml", "metrics.json", "data_report.json", "env_info.json", "notices.txt"}
    for trial in done.trials:
        if trial.state.name == "PRUNED":
            assert artifacts(done.children[f"found-{trial.number}"]) == without_weights


def test_the_best_trial_alone_has_pictures(done: Done, store: Store, tmp_path: Path) -> None:
    best = done.parent.data.tags["best_run_id"]
    trials = [run for name, run in done.children.items() if "seed" not in name]
    assert [run.info.run_id for run in trials if "plots" in artifacts(run)] == [best]
    [run] = [run for run in trials if run.info.run_id == best]
    code, _ = call("show", best, "--plots", str(tmp_path))
    kept = {file.name: file.read_bytes() for file in (Path(run.info.artifact_uri) / "plots").iterdir()}
    assert code == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept
    assert {"loss.png", "confusion_risk.png"} < set(kept)


def test_the_sweep_is_shown(done: Done, store: Store, tmp_path: Path) -> None:
    code, output = call("sweep", "show", "found", "--plot", str(tmp_path / "plots"))
    assert code == 0
    assert "found: " in output
    finished = sum(trial.state.name == "COMPLETE" for trial in done.trials)
    if finished < 4:
        assert f"importance   {finished} finished trials are too few to say what matters" in output
    page = (tmp_path / "plots" / "sweep.html").read_text("utf-8")
    words = re.sub(r"data:image/png;base64,[^\"]+", "", page)  # pictures may spell anything
    assert "http" not in words.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") >= 3
    code, output = call("sweep", "show", "found", "--json")
    content = json.loads(output)
    best = content["best"][0]
    assert best["run_id"] == done.parent.data.tags["best_run_id"]
    assert best["metrics"] == {"avg_f1": pytest.approx(done.parent.data.metrics["best_avg_f1"])}
    assert best["settings"]["model.lora.rank"] in (2, 4, 8)


def test_a_finished_sweep_goes_on_when_it_is_given_more_trials(store: Store) -> None:
    file = store.write("more", trials=1, run={"train": {"epochs": 1}, "register": False})
    assert call("sweep", str(file))[0] == 0
    code, output = call("sweep", str(file), "--set", "sweep.trials=2")
    assert code == 0
    assert [trial.state.name for trial in store.trials("more")] == ["COMPLETE"] * 2
    assert store.parent("more").info.status == "FINISHED"
    assert "2 of 2 done" in output
    assert re.search(r"^trial 1  epoch 1/1  loss \d\.\d{3}  avg_f1 ", output, re.MULTILINE)
    assert "best_version" not in store.parent("more").data.tags  # `register: false` of the config


def test_one_trial_that_fails_is_its_own_failure(store: Store) -> None:
    space = {"train.lr": {"choice": [1e30, 1e-2]}, "train.max_grad_norm": {"choice": [None]}}
    run = {"train": {"epochs": 2, "log_steps": 1}}
    code, output = call(
        "sweep", str(store.write("burst", sampler="grid", trials=2, space=space, run=run, parallel=2))
    )
    assert code == 0
    by_rate = {trial.params["train.lr"]: trial for trial in store.trials("burst")}
    assert by_rate[1e-2].state.name == "COMPLETE"
    failed = by_rate[1e30]
    assert failed.state.name == "FAIL"
    assert failed.user_attrs["reason"].startswith("the loss was nan at step")
    assert f"trial {failed.number}  failed: the loss was nan at step" in output
    assert store.children("burst")[f"burst-{failed.number}"].info.status == "FAILED"


class Worker:
    """A process that works on a sweep, as a second terminal or machine would."""

    def __init__(self, file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loratrack.cli", "sweep", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def ended(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=900)
        return self.process.returncode, output


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(file: Path) -> Worker:
        started.append(Worker(file))
        return started[-1]

    yield start
    for worker in started:
        worker.process.kill()
        worker.process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def num_ended(store: Store, name: str) -> int:
    """Read past Optuna, which would make its tables at the same time as the first worker."""
    file = store.folder / "optuna.db"
    query = (
        "select count(*) from trials join studies using (study_id)"
        " where study_name = ? and state in ('COMPLETE', 'PRUNED', 'FAIL')"
    )
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as database:
            return int(database.execute(query, (name,)).fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


OFTEN: dict[str, Any] = {"epochs": 4, "checkpoint_minutes": 0.001}
"""Steps: 9 in an epoch; a checkpoint of each trial every 60 milliseconds."""
STEP = "loratrack.training.cohort:take_step"


def struck(store: Store, file: Path, *blows: Blow) -> tuple[int, str]:
    """A process that works on the sweep and is sent signals at exact moments."""
    output = store.folder.parent / f"{file.stem}.txt"
    before = len(output.read_text("utf-8")) if output.exists() else 0
    code = ended(start(["sweep", str(file)], store.folder, output, *blows))
    return code, output.read_text("utf-8")[before:]


def check_whole(store: Store, name: str, num_trials: int) -> None:
    """All trials complete, each in one run; every epoch logged once; no checkpoint left."""
    trials, runs = store.trials(name), store.children(name)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * num_trials
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert store.parent(name).info.status == "FINISHED"
    for trial in trials:
        run_id = runs[f"{name}-{trial.number}"].info.run_id
        assert run_id == trial.user_attrs["run_id"]
        told = [step for key, step, _ in traces.metrics(store.folder, run_id) if key == "avg_f1"]
        assert told == list(range(1, OFTEN["epochs"] + 1))
    assert traces.doubled(store.folder) == []
    assert traces.leftovers(store.folder) == []


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_trials_of_a_stopped_sweep_go_on_where_they_were(
    store: Store, number: signal.Signals, exit_code: int
) -> None:
    name = f"broken-off-{number.name}"
    file = store.write(name, trials=2, parallel=2, register=False, run={"train": OFTEN})
    code, output = struck(store, file, Blow(STEP, number, call=22))
    assert code == exit_code, output
    assert output.splitlines()[-1] == f"stopped ({number.name}); 0 trials done; the same command goes on"
    runs = {name: run.info.run_id for name, run in store.children(name).items()}
    assert {run.info.status for run in store.children(name).values()} == {"KILLED"}
    assert store.parent(name).info.status == "KILLED"
    assert [trial.state.name for trial in store.trials(name)] == ["WAITING"] * 2
    code, output = struck(store, file)
    assert code == 0, output
    for trial in (0, 1):
        assert f"trial {trial}: attempt 2 goes on at epoch 2.4 of 4, step " in output
    assert {name: run.info.run_id for name, run in store.children(name).items()} == runs
    check_whole(store, name, 2)


def test_trials_of_a_killed_process_go_on_in_one_that_lives(store: Store) -> None:
    """The second one has been there all the time, with a trial of its own."""
    file = store.write("died", trials=3, parallel=2, register=False, run={"train": OFTEN})
    outputs = [store.folder.parent / f"died-{number}.txt" for number in range(2)]
    words = ["sweep", str(file)]
    dying = start(words, store.folder, outputs[0], Blow(STEP, signal.SIGKILL, call=25))
    living = start(words, store.folder, outputs[1])
    assert ended(dying) == -signal.SIGKILL
    assert ended(living) == 0, outputs[1].read_text("utf-8")
    text = outputs[1].read_text("utf-8")
    assert re.search(r"^trial \d: attempt 2 goes on at epoch [12]\.\d of 4, step \d+$", text, re.MULTILINE), (
        text
    )
    assert "begins anew" not in text
    check_whole(store, "died", 3)


@pytest.mark.parametrize(
    "blow",
    [
        Blow("loratrack.experiments.recording:keep", signal.SIGKILL),
        Blow("loratrack.tuning.study:Search.complete", signal.SIGKILL, is_after=True),
        Blow("loratrack.checkpoints:Home.remove", signal.SIGKILL),
        Blow("loratrack.checkpoints:Home.remove", signal.SIGKILL, is_after=True),
    ],
    ids=["before its files", "when it is complete", "before its checkpoints go", "before its folder goes"],
)
def test_a_trial_whose_process_is_killed_at_its_end_has_one_run(store: Store, blow: Blow) -> None:
    name = f"at-its-end-{blow.function.rpartition('.')[2]}-{blow.is_after}".replace(":", "-")
    file = store.write(name, trials=1, register=False, run={"train": OFTEN})
    assert struck(store, file, blow)[0] == -signal.SIGKILL
    code, output = struck(store, file)
    assert code == 0, output
    assert "begins anew" not in output
    check_whole(store, name, 1)


def test_a_retraining_whose_process_was_killed_goes_on(store: Store) -> None:
    file = store.write("again", trials=1, retrain_best=1, register=False, run={"train": OFTEN})
    code, output = struck(store, file, Blow("loratrack.experiments.retraining:train", signal.SIGKILL))
    assert code == -signal.SIGKILL, output
    code, output = struck(store, file)
    assert code == 0, output
    parent = store.parent("again").info.run_id
    own = [run for run in store.runs() if run.data.tags.get("mlflow.parentRunId") == parent]
    ends = sorted((run.info.run_name, run.info.status) for run in own)
    seed = "again-best-seed-43"
    assert ends == [("again-0", "FINISHED"), (seed, "FINISHED")]
    assert traces.leftovers(store.folder) == []


@pytest.mark.parametrize(("num_workers", "num_trials"), [(2, 6), (4, 40)])
def test_nothing_is_lost_when_a_process_is_killed(
    store: Store, start_worker: Callable[..., Worker], num_workers: int, num_trials: int
) -> None:
    name = f"shared-{num_workers}"
    sweep = {"trials": num_trials, "parallel": 2, "heartbeat_seconds": 2, "keep": "best", "register": False}
    file = store.write(name, **sweep, run={"train": {"epochs": 1, "checkpoint_minutes": 0.001}})
    workers = [start_worker(file) for _ in range(num_workers)]
    enough = random.randint(1, num_trials // 3)
    wait_for(lambda: num_ended(store, name) >= enough)
    victim = random.choice(workers)
    victim.process.kill()
    endings = [worker.ended() for worker in workers if worker is not victim]
    assert [code for code, _ in endings] == [0] * (num_workers - 1), "\n".join(
        output for _, output in endings
    )
    trials = store.trials(name)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    replaced = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    standing = [trial for trial in trials if trial.number not in replaced]
    assert [trial.state.name for trial in standing] == ["COMPLETE"] * num_trials
    assert {trials[number].state.name for number in replaced} <= {"FAIL"}
    runs = store.children(name)
    assert "RUNNING" not in {run.info.status for run in runs.values()}
    assert traces.doubled(store.folder) == []
    assert traces.leftovers(store.folder) == []
    own = {run.info.run_id: run.info.status for run in store.runs()}
    assert {own[trial.user_attrs["run_id"]] for trial in standing} == {"FINISHED"}
    assert store.parent(name).info.status == "FINISHED"


def test_each_trial_finds_its_own_rate_where_none_is_varied(store: Store) -> None:
    space = {"model.use_lora": {"choice": [True, False]}}
    run = {"train": {"epochs": 1, "lr": "auto"}, "register": False}
    code, output = call("sweep", str(store.write("rates", sampler="grid", trials=2, space=space, run=run)))
    assert code == 0, output
    params = [run.data.params for run in store.children("rates").values()]
    rates = {each["model.use_lora"]: each["train.lr"] for each in params}
    assert rates == {"True": "0.002", "False": "2e-05"}
