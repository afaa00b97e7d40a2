"""From the words RUN|EXP|VERSION to one version of a registered model, or to one run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlflow.exceptions import MlflowException

from loratrack.errors import RefusedError, UserError, did_you_mean
from loratrack.registry import versions
from loratrack.registry.uri import MAX_VERSION_DIGITS, MODELS
from loratrack.store.client import (
    EVENTS_EXPERIMENT,
    MISSING,
    RUN_ID_PREFIX,
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
from loratrack.store.place import store_name, tracking_uri

RUN_ID = re.compile(r"[0-9a-f]{32}")
BEST = ("best_avg_f1", "best_f1")
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
    """The version that `text` names: NAME/3, NAME@alias, 3 with `model`, a run id or its start, an exp_id.

    Of several versions of a run the newest; of an experiment the best by `best_avg_f1` or `best_f1`.
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
        matches = list(_versions(client, _filter(model, f"tags.exp_id = {quoted(text)}")))
        if matches:
            return _only(text, [max(of_one, key=_score) for of_one in _by_model(matches)])
        run_id = _run_id(client, text)
        matches = list(_versions(client, _filter(model, f"run_id = '{run_id}'"))) if run_id else []
        if matches:
            return _only(text, [max(of_one, key=lambda each: each.version) for of_one in _by_model(matches)])
        newest = search_runs(client, f"tags.exp_id = {quoted(text)}", 1)
        raise _unknown(client, text, run_id or (newest[0].info.run_id if newest else None))


def run_of(text: str) -> Run:
    """The MLflow run that `text` names: its id or the beginning of it; an exp_id means its newest run."""
    use_short_requests()
    with answering():
        client = connect()
        newest = search_runs(client, f"tags.exp_id = {quoted(text)}", 1)
        if newest:
            return newest[0]
        run_id = _run_id(client, text)
        if run_id is None:
            exp_ids = {run.data.tags.get("exp_id", "") for run in search_runs(client, "", 1000)}
            raise RefusedError(
                f"{text}: no such run id or exp_id in {store_name()}{did_you_mean(text, exp_ids)}"
            )
        return client.get_run(run_id)


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


def _run_id(client: Client, text: str) -> str | None:
    """The id that `text` is or begins."""
    if RUN_ID.fullmatch(text):
        return text if search_runs(client, f"attributes.run_id = '{text}'", 1) else None
    if not RUN_ID_PREFIX.fullmatch(text):
        return None
    runs = search_runs(client, f"attributes.run_id LIKE '{text}%'", MAX_SHOWN)
    if len(runs) > 1:
        listed = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in runs)
        raise UserError(f"{text}: must be the beginning of one run id, got several: {listed}")
    return str(runs[0].info.run_id) if runs else None


def search_runs(client: Client, condition: str, limit: int) -> list[Run]:
    """Of all experiments the newest first; moves in the registry are no runs that anybody means."""
    experiments = [
        each.experiment_id
        for each in pages(lambda token: client.search_experiments(page_token=token))
        if each.name != EVENTS_EXPERIMENT
    ]
    order = ["attributes.start_time DESC"]
    return list(client.search_runs(experiments, condition, max_results=limit, order_by=order))


def _unknown(client: Client, text: str, run_id: str | None) -> RefusedError:
    if run_id is not None:
        return RefusedError(
            f"{text}: run {run_id} has no registered version: it was trained with register: false, or did not"
            f" come to its end; if it has kept a model, loratrack register {run_id} makes one"
        )
    versions = _versions(client, "")
    exp_ids = {each.exp_id for each in versions}
    return RefusedError(
        f"{text}: must be NAME/VERSION, a run id or an exp_id, and no registered version is of such a one"
        f"{did_you_mean(text, exp_ids)}"
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


def metrics_of(candidate: Candidate) -> dict[str, float]:
    """The last value of each metric of the run behind a version."""
    with answering():
        try:
            return dict(connect().get_run(candidate.run_id).data.metrics)
        except MlflowException as error:
            if error.error_code not in MISSING:
                raise
    raise RefusedError(f"{candidate}: its run {candidate.run_id!r} is gone, so it has no metrics to judge by")
