"""A run once more, from what it has kept, beside the first one: what is different around it, and in it.

reproduction = reproduce("exp_v1", check=True)
reproduction.check.is_equal          # every metric of every epoch, to the bit where that can be
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from loratrack import manifest as manifests
from loratrack.bases import base as bases
from loratrack.bases.trust import Trust, said_by_loader
from loratrack.config import RunConfig, load
from loratrack.data import Corpus
from loratrack.disk import read_json
from loratrack.errors import RefusedError
from loratrack.experiments import checking, differences, recording
from loratrack.experiments.differences import REPRODUCES, Difference, environment_differences
from loratrack.experiments.interrupt import interruptible
from loratrack.experiments.recording import WriterLog
from loratrack.experiments.result import Training
from loratrack.experiments.run import Work, carry_out
from loratrack.experiments.watcher import Nobody, Watcher
from loratrack.manifest import Manifest
from loratrack.places import BUNDLE, CONFIG_COPY, DATA_REPORT, ENVIRONMENT, METRICS
from loratrack.registry import lookup
from loratrack.store.client import PARENT_TAG
from loratrack.tracking import artifacts
from loratrack.tracking.environment import environment

MAX_SHOWN = 10


@dataclass(frozen=True)
class First:
    """The run that is repeated."""

    run: Any
    config: RunConfig
    """With what was found or measured for it in the place of `auto`."""
    contents: Mapping[str, Any]
    """Its JSON files, by name."""
    manifest: Manifest | None
    """None where the run kept no model."""

    @property
    def run_id(self) -> str:
        return str(self.run.info.run_id)


@dataclass(frozen=True)
class Check:
    is_exact: bool
    """Equal to the bit was asked for; else within `tolerance`, since what counts is different."""
    tolerance: float
    epochs: int
    unequal: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        return not self.unequal


@dataclass(frozen=True, kw_only=True)
class Reproduction(Training):
    reproduces: str
    """The id of the first run."""
    differences: tuple[Difference, ...]
    """What is different around it: packages, processor, data, base."""
    check: Check | None = None


def reproduce(
    run: str,
    *,
    check: bool = False,
    watcher: Watcher | None = None,
    trust_remote_code: str | None = None,
) -> Reproduction:
    """Train from the settings that a run has kept, as a new run with the tag `reproduces`.

    `run`: its id or the beginning of it, or an exp_id for its newest run.
    `trust_remote_code`: the sha256 of the base whose code may run; that the run's settings trust it does not
    count, since whoever can write into the store can write them.
    """
    watcher = watcher or Nobody()
    first = _first(lookup.run_of(run))
    trust = said_by_loader(trust_remote_code) if first.config.model.trust_remote_code else False
    if first.config.train.threads is not None:
        torch.set_num_threads(first.config.train.threads)  # before the environment is looked at
    corpus = checking.check(first.config)
    around = _differences(first, corpus, trust)
    _list(watcher, "environment", around, "no differences")
    with interruptible() as interruption:
        writer = recording.start(first.config)
        project = first.run.data.tags.get("project", "")
        writer.set_tags({REPRODUCES: first.run_id, **({"project": project} if project else {})})
        watcher.notice(f"{first.config.exp_id}: run {writer.run_id}")
        log = WriterLog(writer, watcher.notice)
        for difference in around:
            log.notices.append(f"different from run {first.run_id}: {difference}")
        attempt = recording.first_attempt(log, first.config)
        trained = carry_out(Work(first.config, corpus, log, attempt, watcher, interruption, trust))
    verdict = None
    if check and trained.status == "FINISHED":
        exact = differences.is_exact(around, first.contents[ENVIRONMENT])
        then = differences.epochs_of(first.contents[METRICS])
        is_whole = first.run.info.status == "FINISHED"
        now = dict(enumerate(trained.epochs, start=1))
        unequal = differences.metric_differences(then, now, exact=exact, is_whole=is_whole)
        verdict = Check(exact, 0.0 if exact else differences.TOLERANCE, len(then), tuple(unequal))
        how = "to the bit" if exact else f"within {verdict.tolerance}, since what counts is different"
        _list(watcher, f"check of {len(then)} epochs, {how}", unequal, "every metric of every epoch is equal")
    return Reproduction(
        **{field.name: getattr(trained, field.name) for field in fields(trained)},
        reproduces=first.run_id,
        differences=tuple(around),
        check=verdict,
    )


class _Git(BaseModel):
    commit: str


class _Device(BaseModel):
    name: str


class _Gpu(BaseModel):
    devices: list[_Device] = []


class _Torch(BaseModel):
    threads: int | None = None
    threads_at_start: int | None = None


class _Environment(BaseModel):
    """As much of `env_info.json` as is compared."""

    python: str = ""
    packages: dict[str, str] = {}
    git: _Git | None = None
    gpu: _Gpu = _Gpu()
    cpu: dict[str, Any] = {}
    torch: _Torch = _Torch()


class _File(BaseModel):
    sha256: str


class _Report(BaseModel):
    files: dict[str, _File] = {}


Epoch = Annotated[str, StringConstraints(pattern=r"^epoch_[0-9]{1,9}$")]
SHAPES: dict[str, TypeAdapter[Any]] = {
    ENVIRONMENT: TypeAdapter(_Environment),
    METRICS: TypeAdapter(dict[Epoch, dict[str, float]]),
    DATA_REPORT: TypeAdapter(_Report),
}
"""What must hold of these files before they are read: anybody may have changed them."""


def _first(run: Any) -> First:
    with tempfile.TemporaryDirectory() as folder:
        names = (CONFIG_COPY, BUNDLE, ENVIRONMENT, METRICS, DATA_REPORT)
        files = artifacts.fetch(run, names, Path(folder))
        missing = [name for name in (CONFIG_COPY, ENVIRONMENT, METRICS) if name not in files]
        if missing:
            raise RefusedError(
                f"run {run.info.run_id} ({run.info.status}): has not kept {', '.join(missing)},"
                " so it cannot be repeated"
            )
        manifest = manifests.read(files.pop(BUNDLE).parent) if BUNDLE in files else None
        config = load(files.pop(CONFIG_COPY))
        contents = {name: _mapping(run, file) for name, file in files.items()}
    # nothing is measured or chosen anew, and no version is made
    threads = contents[ENVIRONMENT].get("torch", {}).get("threads")
    settings: dict[str, object] = {}
    if manifest is not None:
        settings = {"layout": manifest.layout, "precision": manifest.precision}
    if threads is not None and threads <= (os.cpu_count() or 1):
        settings["threads"] = threads
    train = config.train.model_copy(update=settings)
    return First(run, config.model_copy(update={"train": train, "register_as": False}), contents, manifest)


def _mapping(run: Any, file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
        if isinstance(content, dict):
            epochs = {name: value for name, value in content.items() if name.startswith("epoch_")}
            SHAPES[file.name].validate_python(epochs if file.name == METRICS else content)
            return content
        fault = "it is no JSON mapping"
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        fault = f"{place}: {error.errors()[0]['msg'].lower()}"
    except (OSError, ValueError) as error:
        fault = str(error)
    raise RefusedError(
        f"run {run.info.run_id}: {file.name} cannot be read: {fault}; so it cannot be repeated"
    )


def _differences(first: First, corpus: Corpus, trust: Trust) -> list[Difference]:
    """Data, base, tokenizer, neighbours and environment: what was then and is not now."""
    config, tags = first.config, first.run.data.tags
    report = first.contents.get(DATA_REPORT, {}).get("files", {})
    pairs = [
        (f"{setting} ({sha256[:12]})", report[setting]["sha256"], sha256)
        for setting, sha256 in corpus.files_sha256.items()
        if setting in report
    ]
    pairs.append(("data", tags.get("data_sha256", "unknown"), corpus.sha256))
    base = bases.resolve(config.model.arch, trust=trust)
    if first.manifest is not None:
        then = first.manifest.base
        pairs.append(("base", then.sha256, base.sha256))
        pairs.append(("tokenizer", then.tokenizer_sha256, base.tokenizer_sha256))
    else:
        pairs.append(("base", tags.get("base_sha256", "unknown"), base.sha256))
    changes = [Difference(what, old[:12], new[:12]) for what, old, new in pairs if old != new]
    if PARENT_TAG in tags:
        # The same sums in products of another size: equal but for their last bits.
        changes.append(Difference("trained", "beside the other trials of its sweep", "alone"))
    return [*changes, *environment_differences(first.contents[ENVIRONMENT], environment())]


def _list(watcher: Watcher, title: str, changes: Sequence[Difference], none: str) -> None:
    watcher.notice(f"{title}:" if changes else f"{title}: {none}")
    for change in changes[:MAX_SHOWN]:
        watcher.notice(f"  {change}")
    if len(changes) > MAX_SHOWN:
        watcher.notice(f"  and {len(changes) - MAX_SHOWN} more")
