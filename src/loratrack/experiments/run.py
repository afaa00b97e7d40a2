"""One experiment, from its config to a registered model: the page to read first.

result = run(load("projects/clinc/dual.yaml"))      # checks, trains, logs, registers
result.metrics["test_avg_f1"], result.version       # 0.964, "clinc/3"
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from loratrack.bases.trust import Trust
from loratrack.config import RunConfig
from loratrack.data import Corpus
from loratrack.errors import StoreError, UserError
from loratrack.experiments import recording
from loratrack.experiments.checking import check
from loratrack.experiments.hiding import texts_hidden
from loratrack.experiments.interrupt import Interruption, interruptible
from loratrack.experiments.recording import WriterLog
from loratrack.experiments.registration import Choice, choose
from loratrack.experiments.result import RunStatus, Training
from loratrack.experiments.trained_bases import pinned
from loratrack.experiments.verdict import learned_nothing
from loratrack.experiments.watcher import Nobody, Watcher
from loratrack.registry import pages
from loratrack.tracking.registration import registered
from loratrack.training import session
from loratrack.training.cohort import train
from loratrack.training.member import Member
from loratrack.training.session import Outcome, Prepared


def run(
    config: RunConfig,
    watcher: Watcher | None = None,
    corpus: Corpus | None = None,
    changed: Sequence[str] = (),
) -> Training:
    """Train, log, check that the saved model is the trained one, and register it.

    `corpus`: what `checking.check` gave of this config; None: it is checked here.

    However it breaks off, the MLflow run does not stay RUNNING: a fault ends it as FAILED, a signal as
    KILLED with the best epoch so far kept. UserError: the training failed in a way that the user can mend.
    `changed`: settings such as `train.epochs=2` that the run is named after.
    """
    corpus = check(config) if corpus is None else corpus
    watcher, config = watcher or Nobody(), texts_hidden(pinned(config))
    with interruptible() as interruption:
        writer = recording.start(config, changed=changed)
        watcher.notice(f"{config.exp_id}: run {writer.run_id}")
        log = WriterLog(writer, watcher.notice)
        with recording.failing(log), recording.work_folder(writer.run_id) as work:
            prepared, member, outcome = train_one(config, corpus, log, work, watcher, interruption)
            metrics = recording.keep(prepared, member, outcome, log, work)
            if member.status == "failed":
                raise UserError(f"{config.exp_id}: {member.reason}")
            model, choice = config.registered_model, Choice(False)
            if outcome is not None:
                has_learned = learned_nothing(config, member.history, outcome.answers) is None
                rows = prepared.dataset.validation_sha256
                choice = choose(config, writer.run_id, metrics, rows, has_learned)
            if choice.why:
                log.notice(choice.why)
                recording.hand_over_notices(log)
            if model is not None and choice.is_registered:
                text = pages.about(writer.run_id, recording.description(config), metrics)
                writer.ask_version(model, pages.tags(config.exp_id, metrics), text)
            status: RunStatus = "FINISHED" if interruption.signal is None else "KILLED"
            is_sent = writer.finish(status)
    number = None
    if model is not None and choice.is_registered and is_sent:
        number = registered(writer.run_id, model)
    return Training(
        exp_id=config.exp_id,
        run_id=writer.run_id,
        status=status,
        metrics={**prepared.yardstick, **metrics},
        version=None if number is None else f"{model}/{number}",
        notices=tuple(log.notices),
        artifact_uri=artifact_uri(writer.run_id),
        experiment_id=writer.experiment_id,
        ended_by=interruption.signal,
        is_sent=is_sent,
        epochs=tuple(dict(values) for values in member.history),
        best_epoch=member.best.epoch if member.best else None,
    )


def train_one(
    config: RunConfig,
    corpus: Corpus,
    log: WriterLog,
    work: Path,
    watcher: Watcher,
    interruption: Interruption,
    trust: Trust | None = None,
) -> tuple[Prepared, Member, Outcome | None]:
    """A cohort of one, trained until its end or a signal; no outcome when a signal came first."""
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    prepared = session.set_up(config, log.notice, trust, corpus)
    member = recording.enter(prepared, config, log, work)
    train(prepared.cohort, watcher, stop=lambda: bool(interruption))
    outcome = session.conclude(prepared, member) if member.best and not interruption else None
    return prepared, member, outcome


def artifact_uri(run_id: str) -> str:
    """Where MLflow keeps the run's files; empty while the tracking store does not answer."""
    from loratrack.store.client import answering, connect

    try:
        with answering():
            return str(connect().get_run(run_id).info.artifact_uri)
    except StoreError:
        return ""
