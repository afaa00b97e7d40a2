"""A run: one MLflow run, everything about it sent through the outbox."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from loratrack.errors import StoreError
from loratrack.store import process, secrets
from loratrack.store.client import (
    DESCRIPTION,
    ERROR_TAG,
    EXPERIMENT,
    PARENT_TAG,
    REFUSALS,
    STOPPED_TAG,
    Client,
    Run,
    answering,
    connect,
    ensure_experiment,
    fault_text,
    quoted,
    remedy_for,
    use_short_requests,
)
from loratrack.store.place import store_folder, store_name, tracking_uri
from loratrack.store.relocation import follow
from loratrack.tracking import sampler
from loratrack.tracking.outbox import Outbox, cleaned
from loratrack.tracking.shipper import Shipper, adopt

log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 60.0
LOOK_SECONDS = 0.05
LOOKED_AT = 100
"""Runs of the same exp_id that a new name is compared with."""
DIGEST_LENGTH = 32
"""MLflow keeps 36 characters; the whole sha256 is a tag."""
RESUMES = "resumes"
"""The tag that names the run which went on, at the run that `mlflow run` has made for it."""
MEASURED_AREAS = (sampler.PREFIX,)
"""Metrics that differ whenever a step is done again."""


class RunWriter:
    """One MLflow run. No method waits for the tracking store except `start`, `flush` and `finish`.

    `finish` comes last; what is logged after it goes out with another run or `loratrack sync`.
    """

    def __init__(self, run_id: str, experiment_id: str, outbox: Outbox, sender: Shipper) -> None:
        self.run_id, self.experiment_id = run_id, experiment_id
        self._outbox, self._shipper = outbox, sender
        self._sampler: sampler.Sampler | None = None
        self._has_ended = False

    @classmethod
    def start(
        cls,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        experiment: str = EXPERIMENT,
        is_numbered: bool = False,
    ) -> RunWriter:
        """Join the run that `mlflow run` made, once, else make one in `experiment`; an experiment that the
        user has named to MLflow comes before it.

        `is_numbered`: the second run with the same exp_id and name is called `NAME #2`. A joined run starts
        even while the tracking store is away; a new one raises StoreError then.
        """
        use_short_requests()
        client = connect()
        follow(tracking_uri())
        parent = {PARENT_TAG: parent_run_id} if parent_run_id else {}
        named = {**tags, **parent, **process.own_tags(), MLFLOW_RUN_NAME: name}
        run_id = os.environ.pop("MLFLOW_RUN_ID", None)
        if run_id is None:
            run_id, experiment_id = _create(client, experiment, named, is_numbered)
            writer, logged = cls._open(run_id, experiment_id, client), set[str]()
        else:
            experiment_id, logged, run_name = _join(client, run_id, named if is_numbered else None)
            named[MLFLOW_RUN_NAME] = run_name or name
            writer = cls._open(run_id, experiment_id, client)
            writer.set_tags(named)
        writer.log_params({key: value for key, value in params.items() if key not in logged})
        writer._sample()
        return writer

    @classmethod
    def attach(cls, run_id: str, *, with_sampler: bool = False) -> RunWriter:
        """Go on with a run that was started before, here or elsewhere; it is RUNNING again."""
        use_short_requests()
        client = connect()
        follow(tracking_uri())
        outbox = Outbox(store_folder(), store_name())
        outbox.take_back_status(run_id)  # before there is anybody to send it
        outbox.close()
        remedy = f"; where it was deleted, mlflow runs restore --run-id {run_id} brings it back"
        experiment_id, *_ = _join(client, run_id, place="the run to go on with", remedy=remedy)
        writer = cls._open(run_id, experiment_id, client)
        writer.set_tags(process.own_tags())
        if with_sampler:
            writer._sample()
        return writer

    @property
    def is_ours(self) -> bool:
        """Whether no other process writes this run."""
        return self._shipper.sends(self.run_id)

    def leave(self) -> None:
        """Nothing more from here; the run goes on as it is."""
        if self._sampler is not None:
            self._sampler.stop()
        self.flush()
        self._shipper.release(self.run_id)

    @classmethod
    def _open(cls, run_id: str, experiment_id: str, client: Client) -> RunWriter:
        store, folder = store_name(), store_folder()
        shipper = adopt(run_id, folder, store, client)
        # Another mount may have moved the paths since the run was made; from now on our lease forbids it.
        follow(tracking_uri(), own_run=run_id)
        return cls(run_id, experiment_id, Outbox(folder, store), shipper)

    def _sample(self) -> None:
        """Metrics of the machine, behind those that are there already."""
        if sampler.is_wanted():
            first_step = self._outbox.next_step(self.run_id, sampler.PREFIX)
            self._sampler = sampler.Sampler(self.log_metrics, first_step)
            self._sampler.start()

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """A metric has one value for each step: the first. Logging a step again changes nothing."""
        plain = {name: float(value) for name, value in values.items()}
        earlier = self._outbox.add_metrics(self.run_id, plain, step)
        for name, value in earlier.items():
            if not name.startswith(MEASURED_AREAS):
                log.warning(
                    "step %d: %s was %r and is now %r; the first stays", step, name, value, plain[name]
                )

    def log_params(self, values: Mapping[str, Any]) -> None:
        """A param is logged once and never changes."""
        if values:
            shown = {key: _as_text(value) for key, value in secrets.scrub_values(values).items()}
            self._outbox.add(self.run_id, "params", shown)

    def set_tags(self, values: Mapping[str, str]) -> None:
        if values:
            shown = {key: str(value) for key, value in secrets.scrub_values(values).items()}
            self._outbox.add(self.run_id, "tags", shown)

    def log_artifacts(self, folder: Path) -> None:
        """The folder's content becomes the run's artifacts, byte for byte; it may change or go afterwards.

        Its writers have hidden what is secret: a change here would break what is sealed by its sha256.
        """
        self._outbox.add_artifacts(self.run_id, folder)

    def hand_over(self, folder: Path, run_id: str | None = None) -> None:
        """The folder itself, which lies in a work folder, becomes artifacts of this run, or of `run_id`.

        That needs no space.
        """
        self._outbox.take_artifacts(run_id or self.run_id, folder)

    def ask_version(
        self, name: str, tags: Mapping[str, str], description: str = "", run_id: str | None = None
    ) -> None:
        """The model of this run, or of `run_id`, becomes the next version of `name` when its files are there.

        `registration.registered` knows the number then. Asking twice makes one version.
        """
        content = {
            "name": name,
            "tags": secrets.scrub_values(tags),
            "description": secrets.scrub_text(description),
        }
        self._outbox.add(run_id or self.run_id, "version", content)

    def log_dataset(self, name: str, source: str, sha256: str, context: str, num_rows: int) -> None:
        """A file that the run reads; `context` says what for: training, validation or test."""
        content = {
            "name": name,
            "digest": sha256[:DIGEST_LENGTH],
            "source_type": "local",
            "source": json.dumps({"uri": secrets.scrub(source)}, ensure_ascii=False),
            "profile": json.dumps({"num_rows": num_rows}),
            "tags": {"mlflow.data.context": context, "sha256": sha256},
        }
        self._outbox.add(self.run_id, "dataset", content)

    def flush(
        self,
        wait_seconds: float = GIVE_UP_SECONDS,
        run_id: str | None = None,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait until all of this run, or of `run_id`, is sent, but no longer than `wait_seconds` for a store
        that does not take it, and not at all for it when it `is_urgent`.

        False: something is still in the outbox.
        """
        run_id = run_id or self.run_id
        self._shipper.wake()
        begin = time.monotonic()
        while self._outbox.count("waiting", run_id):
            failing_since = self._shipper.failing_since
            is_ours = self._shipper.sends(run_id)
            stuck = failing_since is not None or not is_ours or self._outbox.is_held_up(run_id)
            waited = time.monotonic() - max(begin, failing_since or begin)
            if stuck and (waited >= wait_seconds or is_urgent()):
                return False
            time.sleep(LOOK_SECONDS)
        return self._outbox.count("refused", run_id) == 0

    def finish(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"],
        wait_seconds: float = GIVE_UP_SECONDS,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> bool:
        """End the run, as its first end says; False: something is still in the outbox, and goes out with
        `loratrack sync`.
        """
        if self._sampler is not None:
            self._sampler.stop()
        try:
            if not self._has_ended:
                self._outbox.add(self.run_id, "status", status)
                self._has_ended = True
            return self.flush(wait_seconds, is_urgent=is_urgent)
        finally:
            self._shipper.release(self.run_id)


def tell_made_run(run_id: str, name: str) -> None:
    """`mlflow run` has made a run for a training that goes on in this one: it says so, and stays empty."""
    made = os.environ.pop("MLFLOW_RUN_ID", None)
    if made is None or made == run_id:
        return
    use_short_requests()
    with suppress(StoreError), answering():
        client = connect()
        _hide_secrets(client, client.get_run(made))
        client.set_tag(made, MLFLOW_RUN_NAME, f"resume {name}")
        client.set_tag(made, DESCRIPTION, f"Went on with run {run_id}, where all that was logged is.")
        client.set_tag(made, RESUMES, run_id)


def _create(client: Client, experiment: str, named: Mapping[str, str], is_numbered: bool) -> tuple[str, str]:
    """A new run, which says what it is and whose from its first moment: it may be killed in its second."""
    try:
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID") or ensure_experiment(
            os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment
        )
        tags = cleaned(secrets.scrub(resolve_tags(dict(named))))
        if is_numbered:
            tags[MLFLOW_RUN_NAME] = _numbered(client, experiment_id, tags)
        info = client.create_run(experiment_id, run_name=tags[MLFLOW_RUN_NAME], tags=tags).info
    except MlflowException as error:
        fault = fault_text(error)
        raise StoreError(
            f"{store_name()}: the tracking store must answer to start a run, got: {fault};"
            f" {remedy_for(fault)}"
        ) from error
    return str(info.run_id), str(info.experiment_id)


def _numbered(client: Client, experiment_id: str, tags: Mapping[str, str]) -> str:
    """The run's name, with a number where the experiment has runs of that exp_id and name."""
    name = tags[MLFLOW_RUN_NAME]
    newest = client.search_runs(
        [experiment_id],
        f"tags.exp_id = {quoted(tags['exp_id'])}",
        max_results=LOOKED_AT,
        order_by=["attributes.start_time DESC"],
    )
    numbers = [_number_of(run.info.run_name, name) for run in newest]
    return f"{name} #{max(numbers) + 1}" if any(numbers) else name


def _number_of(run_name: str, name: str) -> int:
    """2 of `NAME #2`, 1 of `NAME`, 0 of another name."""
    rest = run_name.removeprefix(name)
    if rest == "" or rest == run_name:
        return int(rest == "")
    number = rest.removeprefix(" #")
    return int(number) if number.isdecimal() and number != rest else 0


def _join(
    client: Client,
    run_id: str,
    named: Mapping[str, str] | None = None,
    *,
    place: str = "MLFLOW_RUN_ID",
    remedy: str = "",
) -> tuple[str, set[str], str | None]:
    """The experiment of the run, the params it has already, and what it is to be called if it is `named`."""
    try:
        run = client.get_run(run_id)
        if run.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
        for how_it_ended in {process.ENDED_BY, ERROR_TAG, STOPPED_TAG} & run.data.tags.keys():
            client.delete_tag(run_id, how_it_ended)
        _hide_secrets(client, run)
        run_name = None if named is None else _numbered(client, run.info.experiment_id, named)
    except MlflowException as error:
        if error.error_code in REFUSALS:
            raise StoreError(f"{place}: must be a run of {store_name()}, got {run_id!r}{remedy}") from error
        fault = secrets.scrub_text(str(error))
        log.warning("the tracking store does not answer; run %s starts without it: %s", run_id, fault)
        return os.environ.get("MLFLOW_EXPERIMENT_ID", ""), {"config", "set"}, None
    return str(run.info.experiment_id), set(run.data.params), run_name


def _hide_secrets(client: Client, run: Run) -> None:
    """`mlflow run` itself logs the git remote and the command's parameters as they are."""
    for key, value in run.data.tags.items():
        if (shown := secrets.scrub({key: value})[key]) != value:
            client.set_tag(run.info.run_id, key, shown)
    for key, value in run.data.params.items():
        if secrets.scrub({key: value})[key] != value:
            log.warning(
                "param %r of run %s holds a secret and params cannot be changed: delete the run"
                " (mlflow runs delete, mlflow gc) and renew the secret",
                key,
                run.info.run_id,
            )


def _as_text(value: Any) -> str:
    is_nested = isinstance(value, list | tuple | dict)
    return json.dumps(value, ensure_ascii=False) if is_nested else str(value)
