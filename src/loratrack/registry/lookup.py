"""From the words RUN|EXP|VERSION to one version of a registered model, or to one run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from mlflow.exceptions import MlflowException

from loratrack.errors import RefusedError, UserError, did_you_mean
from loratrack.index.naming import MODELS, find
from loratrack.index.opened import open_tables
from loratrack.registry import versions
from loratrack.registry.uri import MAX_VERSION_DIGITS
from loratrack.store.client import (
    EVENTS_EXPERIMENT,
    MISSING,
    Client,
    ModelVersion,
    Run,
    answering,
    connect,
    fetching,
    pages,
    quoted,
    use_short_requests,
)
from loratrack.store.place import tracking_uri

RUN_ID = re.compile(r"[0-9a-f]{32}")
BEST = ("best_avg_f1", "best_f1")
SAME_ROWS = "validation_sha256"
"""The tag by which runs that were scored on the same rows are known."""
AT_ONCE = 100
"""Versions whose runs are asked for in one request."""
MAX_SHOWN = 5
MAX_DIGITS_ALONE = 7
"""A longer number by itself is the beginning of a run's id, which may hold digits alone."""


@dataclass(frozen=True)
class Candidate:
    """A version of a registered model, and what it was made of."""

    model: str
    version: int
    run_id: str
    exp_id: str
    tags: dict[str, str]

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


def version_of(text: str, model: str | None = None) -> Candidate:
    """The version that `text` names: NAME/3, NAME@alias, 3 with `model`; a run id or its start, or an exp_id
    for its newest finished run, mean the newest version of that run.

    RefusedError when there is none, UserError when the words leave it open.
    """
    use_short_requests()
    with answering():
        client = connect()
        name, mark, number = text.removeprefix(MODELS).rpartition("@" if "@" in text else "/")
        if mark and not number.isdecimal():
            return _numbered(client, name, _at_alias(client, name, number))
        if number.isdecimal() and len(number) <= (MAX_VERSION_DIGITS if mark else MAX_DIGITS_ALONE):
            return _numbered(client, name or _only_model(client, model, text), int(number))
        run_id = run_of(text).info.run_id
        matches = list(_versions(client, _filter(model, f"run_id = '{run_id}'")))
        if not matches:
            raise UnregisteredError(text, run_id, model)
        return _only(text, [max(of_one, key=lambda each: each.version) for of_one in _by_model(matches)])


def best_version_of(exp_id: str, model: str | None = None) -> Candidate:
    """Of all versions of an experiment the best by `best_avg_f1` or `best_f1`."""
    use_short_requests()
    with answering():
        client = connect()
        matches = list(_versions(client, _filter(model, f"tags.exp_id = {quoted(exp_id)}")))
        if not matches:
            known = {each.exp_id for each in _versions(client, "")}
            close = did_you_mean(exp_id, known)
            raise RefusedError(f"{exp_id}: no registered version is of this exp_id{close}")
        return _only(exp_id, [max(of_one, key=_score) for of_one in _by_model(matches)])


def newest_scored(model: str, validation_sha256: str, metric: str) -> tuple[Candidate, float] | None:
    """The newest version that was scored by this metric on these validation rows, and its score.

    Versions whose run is gone tell no score.
    """
    with answering():
        client = connect()
        newest_first = pages(
            lambda token: client.search_model_versions(
                _filter(model), max_results=AT_ONCE, order_by=["version_number DESC"], page_token=token
            )
        )
        while some := [_candidate(each) for each in islice(newest_first, AT_ONCE)]:
            run_ids = ", ".join(quoted(each.run_id) for each in some)
            condition = f"attributes.run_id IN ({run_ids}) AND tags.{SAME_ROWS} = '{validation_sha256}'"
            runs = {run.info.run_id: run for run in search_runs(client, condition, AT_ONCE)}
            for each in some:
                if each.run_id in runs and metric in runs[each.run_id].data.metrics:
                    return each, runs[each.run_id].data.metrics[metric]
    return None


def run_of(text: str) -> Run:
    """The MLflow run that `text` names, as `index.naming` says; runs of others by their whole id."""
    use_short_requests()
    with open_tables() as tables:
        try:
            run_id = find(tables, text).run_id
        except RefusedError:
            if not RUN_ID.fullmatch(text):
                raise
            run_id = text
            known = tables.rows("SELECT r.run_uuid FROM runs r WHERE r.run_uuid = :run", run=text)
            if not known:
                raise
    with answering():
        return connect().get_run(run_id)


def _numbered(client: Client, model: str, version: int) -> Candidate:
    try:
        return _candidate(client.get_model_version(model, str(version)))
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
    known = versions.Model(client, model)
    known.aliases(())  # refused where there is no such model
    raise RefusedError(f"{model}/{version}: no such version; it has {known.numbers()}")


def _at_alias(client: Client, model: str, alias: str) -> int:
    try:
        return int(client.get_model_version_by_alias(model, alias).version)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        raise RefusedError(f"{model}@{alias}: no such alias") from None


def _only_model(client: Client, model: str | None, text: str) -> str:
    if model is not None:
        return model
    names = versions.names(client)
    if len(names) == 1:
        return names[0]
    raise UserError(
        f"{text}: a number alone needs --model NAME; the registry has {', '.join(names) or 'none'}"
    )


def _only(text: str, found: Sequence[Candidate]) -> Candidate:
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise UserError(f"{text}: has versions of {len(found)} models ({listed}); say which with --model")
    return found[0]


def _by_model(found: Sequence[Candidate]) -> list[list[Candidate]]:
    names = sorted({each.model for each in found})
    return [[each for each in found if each.model == name] for name in names]


def _score(candidate: Candidate) -> tuple[float, int]:
    """The better one, of equals the newer."""
    values = [candidate.tags[name] for name in BEST if name in candidate.tags]
    try:
        return (float(values[0]), candidate.version)
    except (IndexError, ValueError):
        return (float("-inf"), candidate.version)


def search_runs(client: Client, condition: str, limit: int) -> list[Run]:
    """Of all experiments the newest first; moves in the registry are no runs that anybody means."""
    experiments = [
        each.experiment_id
        for each in pages(lambda token: client.search_experiments(page_token=token))
        if each.name != EVENTS_EXPERIMENT
    ]
    order = ["attributes.start_time DESC"]
    return list(client.search_runs(experiments, condition, max_results=limit, order_by=order))


class UnregisteredError(RefusedError):
    """A run that is there and has no version, or none of `model`."""

    def __init__(self, text: str, run_id: str, model: str | None) -> None:
        self.run_id = run_id
        of_model, named = (f" of {model}", f" --name {shlex.quote(model)}") if model else ("", "")
        super().__init__(
            f"{text}: run {run_id} has no version{of_model}; loratrack register {run_id}{named} makes one"
        )


def _filter(model: str | None, condition: str = "") -> str:
    parts = [condition] if condition else []
    return " and ".join([*parts, *([f"name = {quoted(model)}"] if model is not None else [])])


def _versions(client: Client, condition: str) -> Iterator[Candidate]:
    return map(_candidate, pages(lambda token: client.search_model_versions(condition, page_token=token)))


def _candidate(version: ModelVersion) -> Candidate:
    tags = dict(version.tags)
    return Candidate(version.name, int(version.version), version.run_id or "", tags.get("exp_id", ""), tags)


def has_files(candidate: Candidate) -> bool:
    """Whether the version's files are still where the registry says."""
    from mlflow.artifacts import list_artifacts

    with answering():
        uri = versions.Model(connect(), candidate.model).source(candidate.version)
        with fetching(uri):
            return bool(list_artifacts(artifact_uri=uri, tracking_uri=tracking_uri()))


def model_with_champion() -> str:
    """The only registered model that has a champion; UserError when there are several."""
    use_short_requests()
    with answering():
        names = versions.with_alias(connect(), "champion")
    if not names:
        raise RefusedError("no registered model has a champion; loratrack promote makes one")
    if len(names) > 1:
        raise UserError(f"--model: must say which of {', '.join(names)}")
    return names[0]


def run_behind(candidate: Candidate) -> Run | None:
    """The run whose model the version is; None where that is gone."""
    with answering():
        try:
            return connect().get_run(candidate.run_id)
        except MlflowException as error:
            if error.error_code not in MISSING:
                raise
    return None


def metrics_of(candidate: Candidate) -> dict[str, float]:
    """The last value of each metric of the run behind a version."""
    run = run_behind(candidate)
    if run is None:
        raise RefusedError(
            f"{candidate}: its run {candidate.run_id!r} is gone, so it has no metrics to judge by"
        )
    return dict(run.data.metrics)
