"""What a training leaves in MLflow, and in which order: the same for a run and for a trial of a sweep.

writer = start(config)
member = enter(prepared, config, log, work)              # after session.set_up
metrics = keep(prepared, member, outcome, log, work)     # files, the check that they load, the last metrics
writer.finish("FINISHED")
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from loratrack import __version__, disk
from loratrack.checkpoints import About, FencedError, Home, home_of
from loratrack.config import RunConfig, files, flat, plain
from loratrack.config.schema import data_paths
from loratrack.config.train import AUTO
from loratrack.errors import StoreError, UserError
from loratrack.experiments.differences import surroundings
from loratrack.experiments.hiding import storable
from loratrack.experiments.verdict import (
    LEARNED_NOTHING,
    against_baseline,
    is_worse,
    learned_nothing,
    remedies,
)
from loratrack.model.bundle import MEMBER
from loratrack.places import (
    ANSWERS,
    ARTIFACTS,
    BUNDLE,
    CLASS_SCORES,
    CONFIG_COPY,
    DATA_REPORT,
    ENVIRONMENT,
    NOTICES,
    PLOTS,
    PYFUNC,
)
from loratrack.registry.lookup import SAME_ROWS
from loratrack.serving import pyfunc
from loratrack.serving.classifier import check_reload
from loratrack.store.client import DESCRIPTION, ERROR_TAG, EXPERIMENT
from loratrack.store.place import store_folder
from loratrack.store.secrets import scrub_name, scrub_text, scrub_values
from loratrack.tracking import failures, outbox
from loratrack.tracking.environment import device_name, environment, git
from loratrack.tracking.writer import RunWriter
from loratrack.training import session
from loratrack.training.checkpoint import Saved
from loratrack.training.keeper import Facts, Keeper
from loratrack.training.member import Member
from loratrack.training.session import Outcome, Prepared
from loratrack.views import class_scores, curves
from loratrack.views.answers import as_json

CHANGED = "resumed_with"
"""The tag of a run that went on although something that counts was different."""
MAX_NAME_CHARACTERS = 60
NOT_IN_NAMES = ("exp_id", "description", "register", "project", "experiment")
"""Settings that make no other model."""


class WriterLog:
    """What training says, on the screen and in the run: metrics to the store, notices to a file."""

    def __init__(self, writer: RunWriter, show: Callable[[str], None] = lambda text: None) -> None:
        self.writer, self.show = writer, show
        self.notices: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.writer.log_metrics(values, step)

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.show(text)


@dataclass(frozen=True)
class Attempt:
    """One process's try at a run; the first begins it, the others go on from what was saved."""

    home: Home
    number: int
    config_sha256: str
    saved: Saved | None = None
    notices: tuple[str, ...] = ()
    """How it goes on, and what is different since."""
    sweep: str = ""
    """The sweep that the run is a part of."""
    changed: str = ""
    """What is different since and changes numbers."""


def first_attempt(log: WriterLog, config: RunConfig, sweep: str = "") -> Attempt:
    """`sweep`: which the run is a part of."""
    home = home_of(store_folder(), log.writer.run_id)
    return Attempt(home, home.claim(), files.sha256(storable(config)), sweep=sweep)


def start(config: RunConfig, parent_run_id: str | None = None, changed: Sequence[str] = ()) -> RunWriter:
    """A run that shows the config's settings without their secrets.

    `changed`: the settings that differ from the config's file, as `--set` has them. The run is named after
    them, and the next one that would be called the same gets a number; a child run is called by its exp_id.
    """
    config = storable(config)
    params = flat(plain(config))
    if config.train.lr == AUTO:  # a param never changes: `enter` logs the rate that it comes to
        del params["train.lr"]
    return RunWriter.start(
        name=run_name(config.exp_id, changed),
        params=params,
        tags=tags(config, changed),
        parent_run_id=parent_run_id,
        experiment=config.experiment or EXPERIMENT,
        is_numbered=parent_run_id is None,
    )


def run_name(exp_id: str, changed: Sequence[str]) -> str:
    """`dual rank=8 epochs=1`: the exp_id and what was changed, as short as a list of runs shows it."""
    pairs = [each.partition("=")[::2] for each in changed]
    values = {key.strip(): str(scrub_text(value.strip())) for key, value in pairs}
    values = {
        key: Path(value).name if value[:1] in "/.~" or key.endswith("_path") else value
        for key, value in values.items()
    }
    words = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in values.items() if key not in NOT_IN_NAMES]
    name = " ".join([exp_id, *words])
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{name[: MAX_NAME_CHARACTERS - 1]}…"


def tags(config: RunConfig, changed: Sequence[str] = ()) -> dict[str, str]:
    """What a run is, in the order of MLflow's page: for a person first, for programs last."""
    commit = git()
    values = {
        "exp_id": config.exp_id,
        DESCRIPTION: description(config),
        "task_type": config.task_type,
        "project": config.project or "",
        "set": str(scrub_text("; ".join(changed))),
        "base_config": config.base_config or "",
        "device": device_name(),
        "git_commit": "" if commit is None else str(commit["commit"]),
        "loratrack_version": __version__,
        "config_sha256": files.sha256(config),
    }
    return {name: value for name, value in values.items() if value}


def description(config: RunConfig) -> str:
    """The config's own, or a sentence that says what is learned on what."""
    if config.description:
        return config.description
    how = f"LoRA of rank {config.model.lora.rank}" if config.model.use_lora else "Full fine-tuning"
    data = Path(config.data.raw_data_path).name
    return f"{how} on {config.model.arch}: {', '.join(config.tasks)}, learned from {data}."


def enter(
    prepared: Prepared,
    config: RunConfig,
    log: WriterLog,
    work: Path,
    attempt: Attempt,
    name: str = MEMBER,
) -> Member:
    """A member of the cohort, new or as it was saved; its run says which data, base and size it has."""
    writer, dataset = log.writer, prepared.dataset
    writer.set_tags(
        {
            "data_sha256": dataset.sha256,
            SAME_ROWS: dataset.validation_sha256,
            "base_sha256": prepared.base.sha256,
        }
    )
    rows = {
        "data.raw_data_path": ("training", len(dataset.train)),
        "data.validation_path": ("validation", len(dataset.validation)),
        "data.test_path": ("test", 0 if dataset.test is None else len(dataset.test)),
    }
    for setting, path in data_paths(config).items():
        if setting in rows:
            context, num_rows = rows[setting]
            writer.log_dataset(path.name, str(path), prepared.files_sha256[setting], context, num_rows)
    member = session.enter(prepared, storable(config), log, work, name, attempt.saved)
    if attempt.changed:
        writer.set_tags({CHANGED: attempt.changed})
    if attempt.saved is not None:  # what was said when it entered first is not said again
        log.notices[:] = [*attempt.saved.state.notices, *attempt.notices]
    trainable, total = prepared.network.parameter_counts(member.name)
    sizes = {"trainable_parameters": trainable, "total_parameters": total}
    writer.log_params(
        sizes if config.train.lr != AUTO else {**sizes, "train.lr": member.config.train.peak_rate}
    )
    return member


def follow(keeper: Keeper, prepared: Prepared, member: Member, log: WriterLog, attempt: Attempt) -> None:
    """From now on the member is saved, so that whoever comes after us can go on."""
    facts = Facts(
        run_id=log.writer.run_id,
        attempt=attempt.number,
        config_sha256=attempt.config_sha256,
        data_sha256=prepared.dataset.sha256,
        base_sha256=prepared.base.sha256,
        environment=surroundings(),
        notices=log.notices,
        sweep=attempt.sweep,
    )
    keeper.follow(member, attempt.home, facts)


def keep(
    prepared: Prepared,
    member: Member,
    outcome: Outcome | None,
    log: WriterLog,
    work: Path,
    *,
    with_weights: bool = True,
    with_pictures: bool = True,
) -> dict[str, float]:
    """The run's files, checked and handed over, and its last metrics, which are returned.

    Without pictures, they can be drawn later from `metrics.json` and `answers.json`.
    """
    metrics = session.summary(member, outcome)
    if outcome is not None:
        compared = {**prepared.yardstick, **metrics}
        verdict = learned_nothing(member.config, member.history, outcome.answers)
        if verdict is not None:
            log.writer.set_tags({LEARNED_NOTHING: verdict})
        elif is_worse(member.config, compared):
            verdict = against_baseline(member.config, compared)
        if verdict is not None:
            rate = session.rate_to_try(prepared.network, member.config.train)
            best_epoch = member.best.epoch if member.best else 0
            tries = remedies(member.config, best_epoch, rate, prepared.dataset.report)
            log.notice(f"{member.config.exp_id}: {verdict}; {tries}")
    folder = work / ARTIFACTS
    try:  # before the files: a run that has kept its model has its scores, whenever it is killed
        log.writer.log_metrics(metrics, step=len(member.history))
        log.writer.log_metrics(prepared.yardstick, step=0)  # last: MLflow shows them in this order
    finally:  # also on a full disk, for moving the files takes no space
        answers = _write(prepared, member, outcome, log, folder, with_weights=with_weights)
        log.writer.hand_over(folder)
    if member.history and with_pictures:
        _draw(member, answers, log, work / "pictures")
    return metrics


def _write(
    prepared: Prepared,
    member: Member,
    outcome: Outcome | None,
    log: WriterLog,
    folder: Path,
    *,
    with_weights: bool,
) -> dict[str, curves.Answers]:
    """The run's files, checked; gives what the pictures are drawn from."""
    session.write(prepared, member, outcome, folder, with_weights=with_weights)
    disk.write_json(folder / DATA_REPORT, scrub_values(prepared.dataset.report, scrub_name))
    if not (folder / CONFIG_COPY).exists():
        files.save(member.config, folder / CONFIG_COPY)
    if (folder / BUNDLE).exists():
        draft = folder.with_name(PYFUNC)  # MLflow copies the folder, so it cannot write into it
        pyfunc.save(folder, draft, member.config)
        draft.rename(folder / PYFUNC)
    facts = environment()
    if prepared.cohort.threads_at_start is not None:
        facts["torch"]["threads_at_start"] = prepared.cohort.threads_at_start
    disk.write_json(folder / ENVIRONMENT, facts)
    disk.write_text(folder / NOTICES, notices(log))
    # the gate of every run: what was saved is what was trained
    if files.sha256(files.load(folder / CONFIG_COPY)) != files.sha256(member.config):
        raise AssertionError(f"{folder / CONFIG_COPY}: must load to the settings it was written from")
    if outcome is not None and with_weights:
        check_reload(folder, prepared.base.sha256, outcome.probe, outcome.probe.logits)
    labels = {task.name: task.labels for task in prepared.dataset.label_map.tasks}
    pairs = {} if outcome is None else outcome.answers
    answers: dict[str, curves.Answers] = {task: (labels[task], *pair) for task, pair in pairs.items()}
    if answers:
        class_scores.write(folder / CLASS_SCORES, answers)
        disk.write_text(folder / ANSWERS, json.dumps(as_json(answers), ensure_ascii=False))
    return answers


def _draw(member: Member, answers: Mapping[str, curves.Answers], log: WriterLog, folder: Path) -> None:
    """The run's pictures. What the run is worth was handed over already, and no picture may fail it."""
    try:
        folder.mkdir()
        notice = curves.draw(
            folder / PLOTS,
            dict(enumerate(member.history, start=1)),
            answers,
            best_epoch=member.best.epoch if member.best else None,
        )
        if notice is not None:
            log.notice(f"{PLOTS}: {notice}")
            disk.write_text(folder / NOTICES, notices(log))
        log.writer.hand_over(folder)
    except Exception as error:  # noqa: BLE001  whatever is wrong with a picture, the run stands
        log.notice(
            f"{PLOTS}: not drawn ({type(error).__name__}: {error}); nothing else of the run is missing"
        )
        with suppress(OSError, StoreError):  # on a full disk it stands on the screen alone
            disk.write_text(folder / NOTICES, notices(log))
            log.writer.hand_over(folder)


def notices(log: WriterLog) -> str:
    return "".join(f"{scrub_text(line)}\n" for line in log.notices)


@contextmanager
def failing(log: WriterLog, home: Home | None = None) -> Iterator[None]:
    """However a run breaks off, it is not left RUNNING, and it says why it failed.

    `home`: of its checkpoints, from which it can go on.
    """
    try:
        yield
    except FencedError:  # whoever has taken it over says how it ends
        log.writer.leave()
        raise
    except KeyboardInterrupt:  # asked a second time: nobody waits for the store
        _tell_kept(log, None if home is None else home.about())
        log.writer.finish("KILLED", 0)
        raise
    except BaseException as error:
        about = None if home is None else home.about()
        if home is not None and about is None:
            home.remove()
        _tell_kept(log, about)
        keep_reason(log, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        log.writer.finish("FAILED")
        raise


def _tell_kept(log: WriterLog, about: About | None) -> None:
    if about is not None:
        log.notice(f"what was trained is kept: {about}; loratrack resume {log.writer.run_id} goes on")


def keep_reason(log: WriterLog, reason: str) -> None:
    """Why a run failed: its tag `error` and the last of its notices, as far as the disk takes them."""
    log.notices.append(reason)
    with suppress(OSError, StoreError):
        log.writer.set_tags({ERROR_TAG: failures.shown(reason)})
        hand_over_notices(log)


def hand_over_notices(log: WriterLog) -> None:
    """`notices.txt` once more, with what came after the other files."""
    folder = new_work_folder(log.writer.run_id)
    try:
        disk.write_text(folder / ARTIFACTS / NOTICES, notices(log))
        log.writer.hand_over(folder / ARTIFACTS)
    finally:
        remove_work_folder(folder)


@contextmanager
def work_folder(run_id: str) -> Iterator[Path]:
    """Where an attempt at a run keeps its files until they are handed over; gone afterwards."""
    folder = new_work_folder(run_id)
    try:
        yield folder
    finally:
        remove_work_folder(folder)


def new_work_folder(run_id: str) -> Path:
    """Of its own name: an attempt that was taken for dead does not write among the files of the next one."""
    folder = outbox.work_folder(store_folder(), run_id) / uuid4().hex[:8]
    (folder / ARTIFACTS).mkdir(parents=True)
    return folder


def remove_work_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another attempt has its own in there
        folder.parent.rmdir()
