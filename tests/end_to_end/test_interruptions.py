"""A run that is stopped or killed goes on: the same MLflow run, and to the bit what it would have been."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1
from typing import Any

import psutil
import pytest
from tests import traces
from tests.forks import Blow, ended, start
from tests.traces import Learned

from loratrack.cli import main
from loratrack.experiments.checking import check
from loratrack.experiments.loading import load_run
from loratrack.experiments.resumption import unfinished
from loratrack.serving.classifier import Classifier

pytestmark = pytest.mark.slow

SETTINGS = "train.epochs=8; train.lr=0.005; train.checkpoint_minutes=0.001; baseline=false"
"""72 steps, 9 in an epoch, and a checkpoint every 60 milliseconds."""
STEP = "loratrack.training.cohort:take_step"
EVALUATION = "loratrack.training.objectives.classification:Classification.evaluate"
FILES = "loratrack.experiments.recording:keep"
REMOVAL = "loratrack.checkpoints:Home.remove"
WAIT_SECONDS = 60


@dataclass(frozen=True)
class Place:
    """A store of its own, and processes that train the sample's config in it."""

    store: Path
    config: Path

    @property
    def output(self) -> Path:
        return self.store.parent / "output.txt"

    def run(self, *blows: Blow, words: tuple[str, ...] = (), settings: str = SETTINGS) -> int:
        """`loratrack run`, struck by `blows`; its exit code."""
        return self.call("run", str(self.config), "--set", settings, *words, blows=blows)

    def call(self, *words: str, blows: tuple[Blow, ...] = ()) -> int:
        return ended(start(words, self.store, self.output, *blows))

    @property
    def last_line(self) -> str:
        return self.last_lines[-1]

    @property
    def last_lines(self) -> list[str]:
        """The last two."""
        return self.output.read_text("utf-8").splitlines()[-2:]

    @property
    def run_id(self) -> str:
        """Of the only run there is."""
        [run_id] = traces.statuses(self.store)
        return run_id

    @property
    def status(self) -> str:
        return traces.statuses(self.store)[self.run_id]

    def check_finished(self, undisturbed: Learned) -> None:
        """One run, finished, registered once, the same as if nothing had happened; and nothing is left."""
        assert "Traceback" not in self.output.read_text("utf-8")
        assert self.status == "FINISHED"
        assert traces.versions(self.store) == [self.run_id]
        assert traces.learned(self.store, self.run_id) == undisturbed
        assert traces.doubled(self.store) == []
        assert traces.leftovers(self.store) == []


@pytest.fixture(scope="session")
def new_place(
    sample: Any, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Place]:
    def new() -> Place:
        store = tmp_path_factory.mktemp("place") / "mlruns"
        store.mkdir()
        shutil.copy(empty_database, store)
        return Place(store, sample.config)

    return new


@pytest.fixture
def place(new_place: Callable[[], Place], monkeypatch: pytest.MonkeyPatch) -> Place:
    """It is the tracking store of this process too."""
    new = new_place()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{new.store}/mlflow.db")
    monkeypatch.setenv("COLUMNS", "200")
    return new


@pytest.fixture(scope="module")
def undisturbed(new_place: Callable[[], Place]) -> Learned:
    place = new_place()
    assert place.run() == 0, place.output.read_text("utf-8")
    learned = traces.learned(place.store, place.run_id)
    assert {"lora_adapter/adapter_model.safetensors", "heads.safetensors"} <= learned.weights.keys()
    assert len(learned.metrics) > 50
    assert learned.scores["best"]["epoch"] > 4, "else its weights would be those of before the interruption"
    return learned


@pytest.mark.parametrize(("number", "exit_code"), [(SIGTERM, 143), (SIGINT, 130), (SIGUSR1, 75)])
def test_a_signal_ends_a_run_between_two_steps_and_it_goes_on(
    place: Place, undisturbed: Learned, number: signal.Signals, exit_code: int
) -> None:
    assert place.run(Blow(STEP, number, call=22)) == exit_code
    run_id = place.run_id
    stopped = [f"stopped ({number.name}) at epoch 2.4 of 8", f"go on with: loratrack resume {run_id}"]
    assert place.last_lines == stopped
    assert place.status == "KILLED"
    tag = "select value from tags where run_uuid = ? and key = 'stopped'"
    assert traces.ask(place.store, tag, run_id) == [(f"epoch 2.4 of 8; loratrack resume {run_id}",)]
    assert "pyfunc" not in {path.name for path in traces.artifacts(place.store, run_id).iterdir()}
    assert place.call("resume", run_id) == 0, place.output.read_text("utf-8")
    assert "attempt 2 goes on at epoch 2.4 of 8, step 22" in place.output.read_text("utf-8")
    assert traces.ask(place.store, tag, run_id) == []
    place.check_finished(undisturbed)


def test_where_runs_are_shown_it_is_told_where_one_stopped(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.run(Blow(STEP, SIGTERM, call=22))
    run_id = place.run_id
    where, remedy = "stopped at epoch 2.4 of 8", f"loratrack resume {run_id}"
    capsys.readouterr()
    main(["compare"])
    assert f"dual {where}, resume with {remedy}\n" in capsys.readouterr().out
    main(["show", run_id])
    assert f"stopped at   epoch 2.4 of 8, resume with {remedy}\n" in capsys.readouterr().out
    main(["doctor", "--json"])
    [found] = [each for each in json.loads(capsys.readouterr().out) if each["area"] == "checkpoints"]
    size = r"\d\.\d MiB"
    assert re.fullmatch(rf"dual \({run_id}\): {where}, {size}; kept 14 days", found["text"])
    assert (found["state"], found["remedy"]) == ("note", remedy)


def test_a_second_signal_ends_it_at_once_and_it_goes_on_all_the_same(
    place: Place, undisturbed: Learned
) -> None:
    seldom = SETTINGS.replace(
        "0.001", "null"
    )  # at its beginning, after epochs 1 and 2, and when it is stopped
    blows = Blow(STEP, SIGINT, call=22), Blow("loratrack.checkpoints:Home.seal", SIGINT, call=4)
    assert place.run(*blows, settings=seldom) == 130
    kept, last = place.last_lines
    shape = rf"what was trained is kept: epoch \d\.\d of 8; loratrack resume {place.run_id} goes on"
    assert re.fullmatch(shape, kept), kept
    assert last == "loratrack: interrupted"
    assert place.status == "KILLED"
    assert place.call("resume", place.run_id) == 0, place.output.read_text("utf-8")
    place.check_finished(undisturbed)


def test_a_stopped_run_may_be_ended_with_its_best_epoch(place: Place) -> None:
    place.run(Blow(STEP, SIGTERM, call=22))
    assert place.call("resume", place.run_id, "--end") == 0, place.output.read_text("utf-8")
    assert place.status == "FINISHED"
    assert traces.versions(place.store) == [place.run_id]
    scores = traces.learned(place.store, place.run_id).scores
    assert scores.keys() == {"epoch_1", "epoch_2", "best", "test"}
    kept = Classifier(traces.artifacts(place.store, place.run_id))
    assert list(kept.answer({"text": ["calm take"]})[0]) == ["risk", "adopt"]
    assert traces.leftovers(place.store) == []


@pytest.mark.parametrize(
    "function", ["loratrack.tracking.writer:RunWriter.start", "loratrack.training.session:set_up"]
)
def test_a_signal_before_the_training_leaves_nothing_to_go_on_from(place: Place, function: str) -> None:
    assert place.run(Blow(function, SIGTERM, is_after=True)) == 143
    told = ["stopped (SIGTERM) before anything was trained", "the same command begins again"]
    assert place.last_lines == told
    assert place.status == "KILLED"
    assert traces.leftovers(place.store) == []


@pytest.mark.parametrize(
    ("call", "where"), [(3, "epoch 3.0 of 8"), (9, "epoch 8.0 of 8")], ids=["validation", "test"]
)
def test_an_evaluation_is_given_up_for_a_signal_and_done_again(
    place: Place, undisturbed: Learned, call: int, where: str
) -> None:
    assert place.run(Blow(EVALUATION, SIGTERM, call)) == 143
    told = [f"stopped (SIGTERM) at {where}", f"go on with: loratrack resume {place.run_id}"]
    assert place.last_lines == told
    assert place.call("resume", place.run_id) == 0, place.output.read_text("utf-8")
    place.check_finished(undisturbed)


def test_a_run_that_writes_its_files_ends_in_spite_of_a_signal(place: Place, undisturbed: Learned) -> None:
    assert place.run(Blow(FILES, SIGTERM)) == 0
    place.check_finished(undisturbed)


KILLS = {
    "in a step": Blow(STEP, SIGKILL, call=40),
    "inside a save": Blow("loratrack.training.keeper:save_file", SIGKILL, call=3),
    "before a save is visible": Blow("loratrack.checkpoints:Home.publish", SIGKILL, call=3),
    "before an old save is removed": Blow("loratrack.checkpoints:remove", SIGKILL, call=2),
    "inside an evaluation": Blow(EVALUATION, SIGKILL, call=3),
    "before the files": Blow(FILES, SIGKILL),
    "when the files are written": Blow(
        "loratrack.experiments.recording:check_reload", SIGKILL, is_after=True
    ),
    "when the files are handed over": Blow(FILES, SIGKILL, is_after=True),
    "when a version was asked for": Blow(
        "loratrack.tracking.writer:RunWriter.ask_version", SIGKILL, is_after=True
    ),
    "when the version is made": Blow("loratrack.tracking.registration:register", SIGKILL, is_after=True),
    "before the last word": Blow("loratrack.tracking.writer:RunWriter.finish", SIGKILL),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_goes_on(place: Place, undisturbed: Learned, moment: str) -> None:
    assert place.run(KILLS[moment]) == -SIGKILL, place.output.read_text("utf-8")
    assert [fault for each in traces.checkpoints(place.store) if (fault := traces.fault_of(each))] == []
    assert place.status == "RUNNING"
    assert place.call("resume", "dual") == 0, place.output.read_text("utf-8")
    place.check_finished(undisturbed)


def test_a_run_killed_in_its_first_step_goes_on_or_begins_anew(place: Place, undisturbed: Learned) -> None:
    """It is saved while it takes its first steps: which of the two is first, nobody knows."""
    assert place.run(Blow(STEP, SIGKILL)) == -SIGKILL
    assert place.run(words=("--resume", "auto")) == 0, place.output.read_text("utf-8")
    place.call("doctor", "--fix")
    statuses = traces.statuses(place.store)
    [finished] = [run_id for run_id, status in statuses.items() if status == "FINISHED"]
    assert set(statuses.values()) <= {"FINISHED", "FAILED"}
    assert traces.versions(place.store) == [finished]
    assert traces.learned(place.store, finished) == undisturbed
    assert traces.leftovers(place.store) == []


def test_a_finished_run_that_was_killed_before_its_checkpoints_went_is_finished(
    place: Place, undisturbed: Learned
) -> None:
    assert place.run(Blow(REMOVAL, SIGKILL)) == -SIGKILL
    assert place.call("resume", place.run_id) == 1
    assert place.last_line == (
        f"loratrack: run {place.run_id}: is finished, so there is nothing to go on with; loratrack show"
        f" {place.run_id} tells of it"
    )
    assert place.call("doctor", "--fix") == 0, place.output.read_text("utf-8")
    place.check_finished(undisturbed)


def test_auto_goes_on_with_the_run_of_this_config_and_data_and_no_other(
    place: Place, sample: Any, undisturbed: Learned
) -> None:
    shutil.copytree(sample.folder, place.store.parent / "tiny")
    place = Place(place.store, place.store.parent / "tiny" / "dual.yaml")

    def found(settings: str = SETTINGS) -> str | None:
        asked = load_run(place.config, [settings])
        stopped = unfinished(asked, check(asked).sha256)
        return None if stopped is None else stopped.run_id

    words = ["run", str(place.config), "--set", SETTINGS]
    process = start(words, place.store, place.output, Blow(STEP, SIGSTOP, call=22))
    assert process.pid is not None
    asleep, deadline = psutil.Process(process.pid), time.monotonic() + WAIT_SECONDS
    while asleep.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, place.output.read_text("utf-8")
        time.sleep(0.05)
    assert found() is None, "its process lives"
    assert place.call("resume", place.run_id) == 1
    assert place.last_line.endswith("is being trained, by a process that lives; stop that one first")
    process.kill()
    assert ended(process) == -SIGKILL

    assert found() == place.run_id
    assert found(f"{SETTINGS}; train.seed=43") is None
    data = place.config.with_name("train.csv")
    rows = data.read_bytes()
    data.write_bytes(rows + rows.splitlines(keepends=True)[1])
    assert found() is None, "it has other data"
    data.write_bytes(rows)

    assert place.run(words=("--resume", "auto")) == 0, place.output.read_text("utf-8")
    place.check_finished(undisturbed)
    assert found() is None, "it is finished"


def test_without_auto_a_new_run_tells_of_the_one_that_was_left(place: Place) -> None:
    place.run(Blow(STEP, SIGTERM, call=22))
    left = place.run_id
    assert place.run(Blow(STEP, SIGTERM, call=5)) == 143
    resume = f"stopped at epoch 2.4 of 8, resume with loratrack resume {left}; this is a new run"
    assert f"the same was begun before and {resume}" in place.output.read_text("utf-8").splitlines()
    assert len(traces.statuses(place.store)) == 2


def test_auto_tells_of_a_run_that_was_left_with_other_settings(place: Place) -> None:
    """Whoever asks for 12 epochs instead of 8 learns why it begins anew."""
    place.run(Blow(STEP, SIGTERM, call=22))
    left = place.run_id
    more = SETTINGS.replace("epochs=8", "epochs=12")
    assert place.run(Blow(STEP, SIGTERM, call=5), words=("--resume", "auto"), settings=more) == 143
    told = (
        "a run of dual with other settings stopped at epoch 2.4 of 8, resume with"
        f" loratrack resume {left}; this is a new run"
    )
    assert told in place.output.read_text("utf-8").splitlines()
