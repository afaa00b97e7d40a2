"""What a training leaves in MLflow, and in which order: the same for a run and for a trial of a sweep.

writer = start(config)
member = enter(prepared, config, log, work)         # after session.set_up
values = keep(prepared, member, outcome, log, work) # files, the check that they load, the last metrics
writer.finish("FINISHED")
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loratrack import __version__
from loratrack.config import RunConfig, files, flat, plain
from loratrack.places import ARTIFACTS, BUNDLE, PYFUNC

if TYPE_CHECKING:
    from loratrack.tracking.writer import RunWriter
    from loratrack.training.member import Member
    from loratrack.training.session import Outcome, Prepared

CONFIG_COPY = "config_copy.yaml"


class WriterLog:
    """What training says, on the screen and in the run: metrics to the store, notices to a file."""

    def __init__(self, writer: RunWriter, show: Callable[[str], None]) -> None:
        self.writer, self.show = writer, show
        self.notices: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.writer.log_metrics(values, step)

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.show(text)


def start(config: RunConfig, parent_run_id: str | None = None) -> RunWriter:
    from loratrack.tracking.writer import RunWriter

    return RunWriter.start(
        name=config.exp_id, params=flat(plain(config)), tags=tags(config), parent_run_id=parent_run_id
    )


def enter(
    prepared: Prepared, config: RunConfig, log: WriterLog, work: Path, name: str | None = None
) -> Member:
    """A new member of the bench's cohort, its data and its size told to its run."""
    from loratrack.model.bundle import MEMBER
    from loratrack.training import session

    _tell_data(config, prepared, log.writer)
    member = session.enter(prepared, config, log, work, name or MEMBER)
    trainable, total = prepared.network.parameter_counts(member.name)
    log.writer.log_params({"trainable_parameters": trainable, "total_parameters": total})
    return member


def keep(
    prepared: Prepared,
    member: Member,
    outcome: Outcome | None,
    log: WriterLog,
    work: Path,
    *,
    with_weights: bool = True,
) -> dict[str, float]:
    """The run's files, checked and handed over, and its last metrics, which are returned."""
    from loratrack.training import session

    folder = work / ARTIFACTS
    session.write(prepared, member, outcome, folder, with_weights=with_weights)
    if not (folder / CONFIG_COPY).exists():
        files.save(member.config, folder / CONFIG_COPY)
    _write_more(prepared, member, outcome, folder, log)
    if outcome is not None and with_weights:
        _check(folder, outcome)
    summary = session.summary(member, outcome)
    log.writer.log_metrics(summary, step=len(member.history))
    log.writer.log_artifacts(folder)
    return summary


def register(config: RunConfig, writer: RunWriter, name: str, summary: Mapping[str, float]) -> int | None:
    """The run's model as the next version of `name`; None while the tracking store does not answer."""
    from loratrack.registry import register

    if not writer.flush():
        return None
    told = {"exp_id": config.exp_id, **{key: f"{value:.6g}" for key, value in summary.items()}}
    return register.register(writer.run_id, name, PYFUNC, told)


def with_project(config: RunConfig, file: Path) -> RunConfig:
    """`register: true` becomes the project's name, so that a frozen copy says it too."""
    if config.register_as is not True:
        return config
    return config.model_copy(update={"register_as": project_name(file)})


def project_name(file: Path) -> str:
    """The folder below projects/ that the config lies in, else the folder itself."""
    folders = file.resolve().parent.parts
    if "projects" in folders[:-1]:
        return folders[len(folders) - 1 - folders[::-1].index("projects") + 1]
    return folders[-1]


def tags(config: RunConfig) -> dict[str, str]:
    from loratrack.tracking.environment import device_name, git

    commit = git()
    told = {
        "exp_id": config.exp_id,
        "mlflow.note.content": config.description,
        "task_type": config.task_type,
        "project": str(config.register_as),
        "base_config": config.base_config or "",
        "config_sha256": files.sha256(config),
        "device": device_name(),
        "git_commit": "" if commit is None else str(commit["commit"]),
        "loratrack_version": __version__,
    }
    return {name: value for name, value in told.items() if value}


@contextmanager
def failing(writer: RunWriter) -> Iterator[None]:
    """However a run breaks off, it is not left RUNNING."""
    try:
        yield
    except BaseException:
        writer.finish("FAILED")
        raise


@contextmanager
def work_folder(run_id: str) -> Iterator[Path]:
    """Where a run keeps its files until they are handed over; gone afterwards."""
    folder = new_work_folder(run_id)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_work_folder(run_id: str) -> Path:
    from loratrack.store.place import store_folder

    folder = store_folder() / "work" / run_id
    (folder / ARTIFACTS).mkdir(parents=True, exist_ok=True)
    return folder


def _tell_data(config: RunConfig, prepared: Prepared, writer: RunWriter) -> None:
    """Which data, base and layout this is, as tags and datasets of the run."""
    from loratrack.config.schema import data_paths

    dataset = prepared.dataset
    writer.set_tags({"data_sha256": dataset.sha256, "base_sha256": prepared.base.sha256})
    rows = {
        "data.raw_data_path": ("training", len(dataset.train)),
        "data.validation_path": ("validation", len(dataset.validation)),
        "data.test_path": ("test", 0 if dataset.test is None else len(dataset.test)),
    }
    for setting, path in data_paths(config).items():
        if setting in rows:
            context, num_rows = rows[setting]
            writer.log_dataset(path.name, str(path), prepared.files_sha256[setting], context, num_rows)


def _write_more(
    prepared: Prepared, member: Member, outcome: Outcome | None, folder: Path, log: WriterLog
) -> None:
    """What tracking and serving add to the run's files."""
    import json

    from loratrack.serving import pyfunc
    from loratrack.tracking.environment import environment
    from loratrack.views import curves

    if (folder / BUNDLE).exists():
        draft = folder.with_name(PYFUNC)  # MLflow copies the folder, so it cannot write into it
        pyfunc.save(folder, draft, member.config)
        draft.rename(folder / PYFUNC)
    (folder / "env_info.json").write_text(json.dumps(environment(), ensure_ascii=False, indent=1), "utf-8")
    (folder / "notices.txt").write_text("".join(f"{line}\n" for line in log.notices), "utf-8")
    if not member.history:
        return
    labels = {task.name: task.labels for task in prepared.dataset.label_map.tasks}
    matrices = {} if outcome is None else outcome.confusions
    confusion = {task: (labels[task], matrix) for task, matrix in matrices.items()}
    curves.draw(folder / "plots", dict(enumerate(member.history, start=1)), confusion)


def _check(folder: Path, outcome: Outcome) -> None:
    """The gate of every run: what was saved gives the logits of what was trained."""
    from loratrack.serving.classifier import check_reload

    check_reload(folder, outcome.probe, outcome.probe_logits)
