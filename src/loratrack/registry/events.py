"""Moves in the registry: each is one run of the experiment `registry-events`, written before it is made.

MLflow has no compare-and-swap. A run that is RUNNING there says: I am about to move this model. Whoever
wants to move it writes such a run first, then looks; who sees another one steps back, so two never go on
together. What a killed process leaves RUNNING says what it was about, and the next one settles it.
"""

from __future__ import annotations

import getpass
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, cast

from loratrack.disk import locked
from loratrack.errors import RefusedError
from loratrack.index.opened import open_tables
from loratrack.store import process, secrets
from loratrack.store.client import EVENTS_EXPERIMENT, Client, ensure_experiment, pages, quoted
from loratrack.store.place import store_folder, tracking_uri

MLFLOW_USER = "mlflow.user"
"""The tag that MLflow shows as the user of a run."""
Kind = Literal["promote", "rollback", "delete", "reconcile", "noticed"]
NONE = "none"
LOCK_FILE = ".registry.lock"
RECENT = 50
"""Moves that are looked at before a new one; safely more than can run at once."""
WAIT_SECONDS = 20.0
GAP_MS = 3
"""Minimum gap between start times: keeps the order under clock skew and leaves room to insert moves
made by hand."""
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.02, 0.5


@dataclass(frozen=True)
class Event:
    """One move of an alias from one version to another; deletions and mendings have no alias."""

    model: str
    alias: str | None
    kind: Kind
    before: int | None
    after: int | None
    why: str = ""
    who: str = ""
    status: str = "RUNNING"
    """RUNNING: begun; FINISHED: made; FAILED: not made, `outcome` says why; KILLED: stepped back."""
    outcome: str = ""
    at_ms: int = 0
    run_id: str = ""
    owner: Mapping[str, str] = field(default_factory=dict)
    """The tags of the process that wrote it."""


@dataclass(frozen=True)
class Claim:
    """The right to move a model."""

    event: Event
    """What is about to be done."""
    before: tuple[Event, ...]
    """The last ones before it, the newest first."""

    @property
    def left(self) -> list[Event]:
        """What processes that are gone have begun, the oldest first."""
        return [event for event in reversed(self.before) if event.status == "RUNNING"]

    @property
    def whole_history(self) -> list[Event] | None:
        """The moves that were made, the oldest first; None when there are more."""
        moves = [event for event in reversed(self.before) if event.status == "FINISHED"]
        return moves if len(self.before) < RECENT else None


def made(client: Client | None, model: str) -> Iterator[Event]:
    """The moves of the model that were made, the newest first, read as far as they are asked for."""
    return _search(client, model, status="FINISHED")


def latest(client: Client | None, model: str, aliases: Iterable[str]) -> list[Event]:
    """The shortest end of the history that determines every alias, oldest first."""
    last = [
        next(_search(client, model, status="FINISHED", alias=alias, page_size=1), None) for alias in aliases
    ]
    since_ms = min((event.at_ms for event in last if event is not None), default=None)
    if since_ms is None:
        return []
    return list(_search(client, model, status="FINISHED", since_ms=since_ms))[::-1]


def left_behind(client: Client | None, model: str) -> list[Event]:
    """Moves that were begun and that nobody goes on with, as far as can be told from this machine."""
    running = _search(client, model, status="RUNNING")
    return [event for event in running if not _is_under_way(event) or process.is_gone(event.owner) is None]


def write(client: Client, event: Event, at_ms: int) -> Event:
    who = event.who or _user()
    tags = {
        "model": event.model,
        "alias": event.alias or NONE,
        "event": event.kind,
        "from": _number_text(event.before),
        "to": _number_text(event.after),
        "why": str(secrets.scrub_text(event.why)),
        "who": who,
        MLFLOW_USER: who,
        **process.own_tags(),
    }
    experiment = _experiment_id(client) or ensure_experiment(EVENTS_EXPERIMENT)
    name = f"{event.model}: {event.kind} {_number_text(event.before)} → {_number_text(event.after)}"
    run = client.create_run(experiment, start_time=at_ms, tags=tags, run_name=name)
    _own.add(run.info.run_id)
    return _event(run.data.tags, run.info.status, run.info.start_time, run.info.run_id)


def close(
    client: Client, event: Event, status: Literal["FINISHED", "FAILED", "KILLED"], outcome: str
) -> Event:
    if outcome:
        client.set_tag(event.run_id, "outcome", str(secrets.scrub_text(outcome)))
    client.set_terminated(event.run_id, status)
    _own.discard(event.run_id)
    return replace(event, status=status, outcome=outcome)


@contextmanager
def exclusive(client: Client, move: Event, *, break_others: bool = False) -> Iterator[Claim]:
    """The event, begun, while nobody else moves the model.

    Leaving it makes the event FINISHED, or FAILED with a RefusedError that is raised inside; after any other
    exception it is left RUNNING, for the next one to settle. `break_others`: what other machines have under
    way counts as left behind too.
    """
    with locked(store_folder() / LOCK_FILE):
        claim = _claim(client, move, break_others)
        try:
            yield claim
        except RefusedError as error:
            close(client, claim.event, "FAILED", str(error))
            raise
        finally:
            _own.discard(claim.event.run_id)
        close(client, claim.event, "FINISHED", "")


def _claim(client: Client, wanted: Event, break_others: bool) -> Claim:
    deadline, pause = time.monotonic() + WAIT_SECONDS, FIRST_PAUSE_SECONDS
    while True:
        known = _recent(client, wanted.model)
        living = [] if break_others else [other for other in known if _is_under_way(other)]
        if not living:
            last_ms = max((other.at_ms for other in known), default=0)
            event = write(client, wanted, max(time.time_ns() // 1_000_000, last_ms + GAP_MS))
            rivals = _others(_recent(client, wanted.model), [*known, event])
            if not rivals:
                return Claim(event, tuple(known))
            close(client, event, "KILLED", "another move began at the same instant")
            living = rivals
        if time.monotonic() > deadline:
            raise _busy(living[0])
        time.sleep(random.uniform(0, pause))
        pause = min(2 * pause, LAST_PAUSE_SECONDS)


def _others(now: Iterable[Event], known: Sequence[Event]) -> list[Event]:
    """Who came since; who stepped back does not count."""
    ids = {event.run_id for event in known}
    return [event for event in now if event.run_id not in ids and event.status != "KILLED"]


def _is_under_way(event: Event) -> bool:
    if event.status != "RUNNING":
        return False
    if process.is_own(event.owner):
        return event.run_id in _own
    return not process.is_gone(event.owner)


def _busy(event: Event) -> RefusedError:
    owner = process.owner(event.owner)
    return RefusedError(
        f"{event.model}: a move by {event.who} on {owner.host if owner else '?'} has been under"
        f" way for {WAIT_SECONDS:.0f} seconds (run {event.run_id} in {EVENTS_EXPERIMENT});"
        f" if that process is gone: loratrack registry reconcile {event.model} --force"
    )


def _recent(client: Client, model: str) -> list[Event]:
    return list(islice(_search(client, model), RECENT))


def _search(
    client: Client | None,
    model: str,
    *,
    status: str | None = None,
    alias: str | None = None,
    since_ms: int = 0,
    page_size: int = RECENT,
) -> Iterator[Event]:
    """The newest first. Without a client the store's tables are read, which needs no MLflow."""
    if client is None:
        yield from (
            event
            for event in _stored(model)
            if status in (None, event.status) and alias in (None, event.alias) and event.at_ms >= since_ms
        )
        return
    experiment = _experiment_id(client)
    if experiment is None:
        return
    conditions = [f"tags.model = {quoted(model)}"]
    conditions += [f"attributes.status = '{status}'"] if status else []
    conditions += [f"tags.alias = '{alias}'"] if alias else []
    conditions += [f"attributes.start_time >= {since_ms}"] if since_ms else []
    for run in pages(
        lambda token: client.search_runs(
            [experiment],
            " and ".join(conditions),
            max_results=page_size,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
    ):
        if "event" in run.data.tags:
            yield _event(run.data.tags, run.info.status, run.info.start_time, run.info.run_id)


def _stored(model: str) -> list[Event]:
    """All moves of the model, the newest first, from the tables of a file or a database."""
    with open_tables() as tables:
        rows = tables.rows(
            "SELECT r.run_uuid, r.status, r.start_time, t.key, t.value FROM runs r"
            " JOIN experiments e ON e.experiment_id = r.experiment_id"
            " JOIN tags m ON m.run_uuid = r.run_uuid AND m.key = 'model' AND m.value = :model"
            " JOIN tags t ON t.run_uuid = r.run_uuid"
            " WHERE e.name = :events AND e.lifecycle_stage = 'active' AND r.lifecycle_stage = 'active'"
            " ORDER BY r.start_time DESC",
            model=model,
            events=EVENTS_EXPERIMENT,
        )
    runs: dict[str, tuple[dict[str, str], str, int]] = {}
    for run_id, status, at_ms, key, value in rows:
        runs.setdefault(run_id, ({}, status, int(at_ms)))[0][key] = value
    return [
        _event(tags, status, at_ms, run_id)
        for run_id, (tags, status, at_ms) in runs.items()
        if "event" in tags
    ]


def _experiment_id(client: Client) -> str | None:
    uri = tracking_uri()
    if uri not in _experiments:
        experiment = client.get_experiment_by_name(EVENTS_EXPERIMENT)
        if experiment is None or experiment.lifecycle_stage != "active":
            return None
        _experiments[uri] = str(experiment.experiment_id)
    return _experiments[uri]


def _event(tags: Mapping[str, str], status: str, at_ms: int, run_id: str) -> Event:
    return Event(
        model=tags["model"],
        alias=None if tags["alias"] == NONE else tags["alias"],
        kind=cast(Kind, tags["event"]),
        before=_number(tags["from"]),
        after=_number(tags["to"]),
        why=tags.get("why", ""),
        who=tags.get("who", ""),
        status=status,
        outcome=tags.get("outcome", ""),
        at_ms=at_ms,
        run_id=run_id,
        owner=tags,
    )


def _number(text: str) -> int | None:
    return None if text == NONE else int(text)


def _number_text(version: int | None) -> str:
    return NONE if version is None else str(version)


def _user() -> str:
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


_own: set[str] = set()
"""What this very process has under way."""
_experiments: dict[str, str] = {}
"""The id of the experiment in each store: it is asked for at every step, and never changes."""
