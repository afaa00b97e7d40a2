"""One experiment, from its config to a registered model: the page to read first.

result = run(load("projects/clinc/dual.yaml"))      # checks, trains, logs, registers
result.metrics["test_avg_f1"], result.version       # 0.964, "clinc/3"
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from loratrack.bases.trust import Trust
from loratrack.config import RunConfig
from loratrack.data import Corpus
from loratrack.disk import is_full
from loratrack.errors import StoppedError, StoreError, UserError
from loratrack.experiments import recording
from loratrack.experiments.checking import check
from loratrack.experiments.hiding import texts_hidden
from loratrack.experiments.interrupt import Interruption, interruptible
from loratrack.experiments.recording import Attempt, WriterLog
from loratrack.experiments.registration import choose
from loratrack.experiments.result import Training
from loratrack.experiments.trained_bases import pinned
from loratrack.experiments.verdict import learned_nothing
from loratrack.experiments.watcher import Nobody, Watcher
from loratrack.registry import pages
from loratrack.store.client import STOPPED_TAG
from loratrack.tracking.registration import registered
from loratrack.training import session
from loratrack.training.cohort import train
from loratrack.training.keeper import Keeper
from loratrack.training.member import Member
from loratrack.training.session import Outcome, Prepared

STOP_SECONDS = 1.0
"""How long a run that was asked to stop waits for its tracking store; the rest goes out later."""


def run(
    config: RunConfig,
    watcher: Watcher | None = None,
    corpus: Corpus | None = None,
    changed: Sequence[str] = (),
) -> Training:
    """Train, log, check that the saved model is the trained one, and register it.

    `corpus`: what `checking.check` gave of this config; None: it is checked here.

    However it breaks off, the MLflow run does not stay RUNNING: a fault ends it as FAILED, a signal as
    KILLED, with a checkpoint from which `resume` goes on. UserError: the training failed in a way that the
    user can mend. `changed`: settings such as `train.epochs=2` that the run is named after.
    """
    corpus = check(config) if corpus is None else corpus
    watcher, config = watcher or Nobody(), texts_hidden(pinned(config))
    with interruptible() as interruption:
        writer = recording.start(config, changed=changed)
        watcher.notice(f"{config.exp_id}: run {writer.run_id}")
        log = WriterLog(writer, watcher.notice)
        with recording.failing(log):
            attempt = recording.first_attempt(log, config)
        return carry_out(Work(config, corpus, log, attempt, watcher, interruption))


@dataclass(frozen=True)
class Work:
    """A run to be trained: from its beginning, or from where another attempt has left it."""

    config: RunConfig
    corpus: Corpus
    log: WriterLog
    attempt: Attempt
    watcher: Watcher
    interruption: Interruption
    trust: Trust | None = None
    """In the code of its base; None: as the config says."""
    is_ended: bool = False
    """Its user wants no more training: the best epoch so far becomes its model."""


def carry_out(work: Work) -> Training:
    """Train until the end, a signal or a full disk; then files, their check, and a version."""
    config, log = work.config, work.log
    writer = log.writer
    with recording.failing(log, work.attempt.home), recording.work_folder(writer.run_id) as folder:
        try:
            prepared, member, outcome = train_one(work, folder)
            work.attempt.home.check_attempt(work.attempt.number)
            metrics = recording.keep(prepared, member, outcome, log, folder)
            if outcome is None:
                work.attempt.home.remove()  # it would fail in the same way again
                raise UserError(f"{config.exp_id}: {member.reason}")
            has_learned = learned_nothing(config, member.history, outcome.answers) is None
            rows = prepared.dataset.validation_sha256
            choice = choose(config, writer.run_id, metrics, rows, has_learned)
            if choice.why:
                log.notice(choice.why)
                recording.hand_over_notices(log)
            model = config.registered_model if choice.is_registered else None
            if model is not None:
                text = pages.about(writer.run_id, recording.description(config), metrics)
                writer.ask_version(model, pages.tags(config.exp_id, metrics), text)
            is_sent = writer.finish("FINISHED", is_urgent=lambda: bool(work.interruption))
        except StoppedError:
            return _stopped(work)
        except (OSError, SafetensorError, UserError) as error:
            if not is_full(error):
                raise
            log.notice(str(error))
            return _stopped(work)
        work.attempt.home.remove()
    number = registered(writer.run_id, model) if model is not None and is_sent else None
    return Training(
        config=config,
        exp_id=config.exp_id,
        run_id=writer.run_id,
        status="FINISHED",
        metrics={**prepared.yardstick, **metrics},
        version=None if number is None else f"{model}/{number}",
        notices=tuple(log.notices),
        artifact_uri=artifact_uri(writer.run_id),
        experiment_id=writer.experiment_id,
        is_sent=is_sent,
        epochs=tuple(dict(values) for values in member.history),
        best_epoch=member.best.epoch if member.best else None,
    )


def train_one(work: Work, folder: Path) -> tuple[Prepared, Member, Outcome | None]:
    """A cohort of one, trained and scored; no outcome where it failed. StoppedError: a signal came, and what
    was trained is saved.
    """
    config, log, stop = work.config, work.log, work.interruption
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    with stop.at_once():
        prepared = session.set_up(config, log.notice, work.trust, work.corpus)
        member = recording.enter(prepared, config, log, folder, work.attempt)
    keeper = Keeper(prepared.cohort)
    recording.follow(keeper, prepared, member, log, work.attempt)
    if work.is_ended and member.is_training:
        member.end("finished", "ended by its user")
    train(prepared.cohort, work.watcher, stop=stop, keeper=keeper)
    if member.best is None or member.status == "failed":
        return prepared, member, None
    keeper.save([member])
    keeper.wait()
    with stop.at_once():
        return prepared, member, session.conclude(prepared, member)


def _stopped(work: Work) -> Training:
    """The run waits for `resume`."""
    log, writer = work.log, work.log.writer
    about = work.attempt.home.about()
    why = work.interruption.signal.name if work.interruption.signal is not None else "the disk is full"
    if about is None:
        log.notice(f"stopped ({why}) before anything was trained")
        work.attempt.home.remove()
    else:
        log.notice(f"stopped ({why}) at {about}")
    with suppress(OSError, StoreError):  # on a full disk it stands on the screen alone
        if about is not None:
            writer.set_tags({STOPPED_TAG: f"{about}; loratrack resume {writer.run_id}"})
        recording.hand_over_notices(log)
    is_sent = False
    with suppress(StoreError):  # the same: it stays RUNNING, with a process that is gone
        is_sent = writer.finish("KILLED", STOP_SECONDS)
    return Training(
        config=work.config,
        exp_id=work.config.exp_id,
        run_id=writer.run_id,
        status="KILLED",
        notices=tuple(log.notices),
        experiment_id=writer.experiment_id,
        ended_by=work.interruption.signal,
        is_sent=is_sent,
        stopped_at=about,
    )


def artifact_uri(run_id: str) -> str:
    """Where MLflow keeps the run's files; empty while the tracking store does not answer."""
    from loratrack.store.client import answering, connect

    try:
        with answering():
            return str(connect().get_run(run_id).info.artifact_uri)
    except StoreError:
        return ""
