"""Which version of a model serves: moved, moved back, and brought in order again.

The alias `champion` is the truth, the stage Production mirrors it, and each move is an event. The order of
a move: the event is begun, the stage, the alias (from here on it is made), `previous-champion`, the event
is finished. Wherever that breaks off, the alias says what to do with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Literal

from loratrack.errors import RefusedError, UserError
from loratrack.registry import events, pages, versions
from loratrack.registry.events import Claim, Event
from loratrack.registry.uri import ARCHIVED, PRODUCTION, STAGING
from loratrack.registry.versions import Model, if_there
from loratrack.store.client import Client, answering, connect, use_short_requests

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous-champion"
STAGE_OF = {CHAMPION: PRODUCTION, CHALLENGER: STAGING}
"""The stage that mirrors each alias."""
TARGETS = {CHAMPION: CHAMPION, CHALLENGER: CHALLENGER} | {stage: alias for alias, stage in STAGE_OF.items()}
"""What a promotion may be asked for, and the alias that it means."""

Aliases = Mapping[str, int]
Gate = Callable[[], object]
"""Raises RefusedError for a version that is not fit to serve. There is no way to move an alias without one;
`experiments.promotion` has the one that loads the version and compares its logits."""


@dataclass(frozen=True)
class Drift:
    """Something that is not as the aliases and the events say."""

    model: str
    kind: Literal["stage", "alias", "unfinished"]
    text: str


@dataclass(frozen=True)
class Move:
    """What came of a command: what was moved, and what had to be brought in order on the way."""

    event: Event
    repairs: tuple[str, ...] = ()


def aliases(model: str) -> dict[str, int]:
    """The aliases of a registered model and the version each is at; RefusedError where there is none."""
    with _reading() as client:
        return _aliases(client, model)


def history(model: str) -> list[Event]:
    """Every move that was made, the oldest first; one made by hand comes last, as `noticed`.

    A move whose process was killed after the alias is one that was made.
    """
    with _reading() as client:
        now = _aliases(client, model)
        unfinished = _made_unfinished(client, model, now)
        moves = sorted([*events.made(client, model), *unfinished], key=lambda event: event.at_ms)
        return [*moves, *_unnoticed(model, moves, _after(unfinished, now))]


def promote(
    model: str, version: int, alias: str = CHAMPION, *, expected: int | None, gate: Gate, why: str = ""
) -> Move:
    """Make the version champion or challenger, if the alias is still at `expected` and the gate lets it."""
    move = Event(model, alias, "promote", before=expected, after=version, why=why)
    with _registry() as client:
        _refuse_unfit(client, move, _aliases(client, model))
        gate()
        return _move(client, move)


def rollback(model: str, version: int, *, expected: int | None, gate: Gate, why: str = "") -> Move:
    """Make a version champion again, if the champion is still `expected`.

    One that was never champion must pass the gate, like any other that is promoted.
    """
    move = Event(model, CHAMPION, "rollback", before=expected, after=version, why=why)
    with _registry() as client:
        _refuse_unfit(client, move, _aliases(client, model))
        if not was_champion(model, version):
            gate()
        return _move(client, move)


def previous_champion(model: str) -> int:
    """The version that a rollback goes to: the last champion before this one that is still there."""
    with _registry() as client:
        now = _aliases(client, model)
        moves = (event for event in events.made(client, model) if event.alias == CHAMPION)
        known = (version for event in moves for version in (event.after, event.before))
        for version in chain(known, [now.get(PREVIOUS)]):
            if version is not None and version != now.get(CHAMPION) and Model(client, model).has(version):
                return version
        raise RefusedError(f"{model}: no earlier champion is there to go back to{_champion_text(now)}")


def was_champion(model: str, version: int) -> bool:
    """Whether the history knows it as champion."""
    with _registry() as client:
        return any(event.alias == CHAMPION and event.after == version for event in events.made(client, model))


def delete(model: str, version: int, *, why: str = "") -> Move:
    """Delete a version for good; the champion is refused."""
    move = Event(model, None, "delete", before=version, after=None, why=why)
    with _registry() as client:
        _refuse_unfit(client, move, _aliases(client, model))
        with events.exclusive(client, move) as claim:
            repairs, now = _settle(client, claim)
            _refuse_unfit(client, move, now)
            Model(client, model).delete(version)
        return Move(claim.event, repairs)


def drift(model: str) -> list[Drift]:
    """What was moved by hand, and what a killed process left half-done."""
    with _reading() as client:
        now = _aliases(client, model)
        return [
            *_half_done(client, model, now),
            *_moved_by_hand(client, model, now),
            *_stages(client, model, now),
        ]


def drifts() -> dict[str, list[Drift]]:
    """The same of each registered model, where there is any."""
    with _reading() as client:
        names = versions.names(client)
    drifts_of = {name: drift(name) for name in names}
    return {name: drifted for name, drifted in drifts_of.items() if drifted}


def reconcile(model: str, *, force: bool = False) -> tuple[str, ...]:
    """Bring stages and events in line with the aliases; says what was done.

    `force`: a move that another machine has under way counts as broken off.
    """
    with _registry() as client:
        if not drift(model):
            return ()
        move = Event(model, None, "reconcile", before=None, after=None)
        with events.exclusive(client, move, break_others=force) as claim:
            repairs = (*_settle(client, claim)[0], *_mirror(client, model))
            client.set_tag(claim.event.run_id, "why", "; ".join(repairs))
        return repairs


def replay(moves: Iterable[Event]) -> dict[str, int]:
    """The aliases that a history leads to; `previous-champion` is not among them."""
    state: dict[str, int] = {}
    for event in moves:
        if event.kind == "delete":
            state = {alias: version for alias, version in state.items() if version != event.before}
        elif event.alias is not None and event.after is None:
            state.pop(event.alias, None)
        elif event.alias is not None and event.after is not None:
            state[event.alias] = event.after
        if state.get(CHALLENGER) == state.get(CHAMPION) and event.kind in ("promote", "rollback"):
            state.pop(CHALLENGER, None)
    return state


def _move(client: Client, wanted: Event) -> Move:
    model, alias, version = Model(client, wanted.model), wanted.alias, wanted.after
    assert alias is not None
    assert version is not None
    with events.exclusive(client, wanted) as claim:
        repairs, now = _settle(client, claim)
        _refuse_unfit(client, wanted, now)
        model.set_stage(version, STAGE_OF[alias])
        if wanted.before is not None:
            with if_there():
                model.set_stage(wanted.before, ARCHIVED)
        model.set_alias(alias, version)
        _complete(client, wanted, now)
    pages.tell(model, claim.event)
    return Move(claim.event, repairs)


def _complete(client: Client, event: Event, before: Aliases) -> None:
    """What follows from a champion that has moved."""
    if event.alias != CHAMPION or event.kind not in ("promote", "rollback"):
        return
    model = Model(client, event.model)
    if event.before is not None:
        with if_there():
            model.set_alias(PREVIOUS, event.before)
    if before.get(CHALLENGER) == event.after:  # it challenges nobody any more
        model.drop_alias(CHALLENGER)


def _refuse_unfit(client: Client, wanted: Event, now: Aliases) -> None:
    """Everything that speaks against a move, as the registry is now."""
    version = wanted.before if wanted.kind == "delete" else wanted.after
    assert version is not None
    if not Model(client, wanted.model).has(version):
        raise RefusedError(
            f"{wanted.model}/{version}: no such version; it has {Model(client, wanted.model).numbers()}"
        )
    if wanted.alias is None:
        if now.get(CHAMPION) == version:
            raise RefusedError(
                f"{wanted.model}/{version}: is champion, so it is not deleted; promote another version first"
            )
        return
    current = now.get(wanted.alias)
    if current != wanted.before:
        raise RefusedError(
            f"{wanted.model}: {wanted.alias} must still be {_version_text(wanted.before)}, got"
            f" {_version_text(current)}; look at loratrack history {wanted.model}, then decide again"
        )
    if current == version:
        raise RefusedError(f"{wanted.model}/{version}: is {wanted.alias} already")
    if wanted.alias == CHALLENGER and now.get(CHAMPION) == version:
        raise RefusedError(
            f"{wanted.model}/{version}: is champion, and no version challenges itself; promote another first"
        )


def _settle(client: Client, claim: Claim) -> tuple[tuple[str, ...], dict[str, int]]:
    """Finish or give up what killed processes have begun, note what was moved by hand.

    Says what was done, and gives the aliases as they are.
    """
    model, repairs = claim.event.model, []
    for event in claim.left:
        repairs.append(_settle_one(client, event, _aliases(client, model)))
    now = _aliases(client, model)
    moves = None if claim.left else claim.whole_history
    if moves is None:
        moves = events.latest(client, model, STAGE_OF)
    for event in _unnoticed(model, moves, now):
        at_ms = claim.event.at_ms - events.GAP_MS + 1 + list(STAGE_OF).index(str(event.alias))
        events.close(client, events.write(client, event, at_ms), "FINISHED", "")
        repairs.append(f"{_told(event)} was done outside loratrack; the history has it now")
    if claim.left:
        repairs += _mirror(client, model)
    return tuple(repairs), now


def _settle_one(client: Client, event: Event, now: Aliases) -> str:
    if _is_done(client, event, now):
        _complete(client, event, now)
        events.close(client, event, "FINISHED", "finished later: its process had ended after the move")
        return f"{_told(event)} by {event.who} was made; its record is finished"
    events.close(client, event, "FAILED", "its process ended before the move was made")
    return f"{_told(event)} by {event.who} was never made; its record says so"


def _is_done(client: Client | None, event: Event, now: Aliases) -> bool:
    if event.kind == "delete":
        return event.before is not None and not Model(client, event.model).has(event.before)
    return event.alias is not None and now.get(event.alias) == event.after


def _unnoticed(model: str, made: Sequence[Event], now: Aliases) -> list[Event]:
    """Moves that no event tells of. A deletion by hand shows as an alias that is gone."""
    aliases, why = replay(made), "moved outside loratrack"
    return [
        Event(model, alias, "noticed", aliases.get(alias), now.get(alias), why, who="unknown")
        for alias in STAGE_OF
        if aliases.get(alias) != now.get(alias)
    ]


def _made_unfinished(client: Client | None, model: str, now: Aliases) -> list[Event]:
    """Moves that were made and whose process ended before it could say so."""
    return [event for event in events.left_behind(client, model) if _is_done(client, event, now)]


def _after(unfinished: Iterable[Event], now: Aliases) -> Aliases:
    """The aliases once these moves are completed: a champion challenges nobody any more."""
    champions = {event.after for event in unfinished if event.alias == CHAMPION}
    return {alias: at for alias, at in now.items() if alias != CHALLENGER or at not in champions}


def _half_done(client: Client | None, model: str, now: Aliases) -> Iterator[Drift]:
    for event in events.left_behind(client, model):
        outcome = "made" if _is_done(client, event, now) else "not made"
        when = datetime.fromtimestamp(event.at_ms / 1000).strftime("%Y-%m-%d %H:%M:%S")
        text = f"{_told(event)}, begun {when} by {event.who}, was never finished; it is {outcome}"
        yield Drift(model, "unfinished", text)


def _moved_by_hand(client: Client | None, model: str, now: Aliases) -> Iterator[Drift]:
    unfinished = _made_unfinished(client, model, now)
    moves = [*events.latest(client, model, STAGE_OF), *unfinished]
    for event in _unnoticed(model, moves, _after(unfinished, now)):
        yield Drift(model, "alias", f"{_told(event)} was done outside loratrack")


def _stages(client: Client | None, model: str, now: Aliases) -> Iterator[Drift]:
    for number, stage, wanted in _misplaced(client, model, now):
        yield Drift(model, "stage", f"version {number} is in stage {stage}, its aliases say {wanted}")


def _mirror(client: Client, model: str) -> list[str]:
    """Each stage as the aliases say."""
    repairs = []
    for number, stage, wanted in _misplaced(client, model, _aliases(client, model)):
        Model(client, model).set_stage(number, wanted)
        repairs.append(f"version {number} was in stage {stage} and is in {wanted} again")
    return repairs


def _misplaced(client: Client | None, model: str, now: Aliases) -> list[tuple[int, str, str]]:
    """Version, the stage it is in, and the one it must be in."""
    should = {now[alias]: STAGE_OF[alias] for alias in (CHALLENGER, CHAMPION) if alias in now}
    stages = Model(client, model).in_stages(STAGE_OF.values(), also=should)
    return [
        (number, stage, should.get(number, ARCHIVED))
        for number, stage in stages.items()
        if stage != should.get(number, ARCHIVED)
    ]


@contextmanager
def _reading() -> Iterator[Client | None]:
    """A client for a server; None where the store's tables say all."""
    use_short_requests()
    client = versions.client_to_read()
    with nullcontext() if client is None else answering():
        yield client


@contextmanager
def _registry() -> Iterator[Client]:
    use_short_requests()
    with answering():
        yield connect()


def _aliases(client: Client | None, model: str) -> dict[str, int]:
    return Model(client, model).aliases((CHAMPION, CHALLENGER, PREVIOUS))


def _told(event: Event) -> str:
    if event.kind == "delete":
        return f"the deletion of version {event.before}"
    if event.kind == "reconcile":
        return "the mending"
    return f"the move of {event.alias} from {_version_text(event.before)} to {_version_text(event.after)}"


def _version_text(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"


def _champion_text(now: Aliases) -> str:
    return f"; version {now[CHAMPION]} is the only one" if CHAMPION in now else "; it never had one"


def alias_of(target: str) -> str:
    """The alias that `--to` means; stages may be written in any case."""
    by_name = {name.lower(): alias for name, alias in TARGETS.items()}
    if target.lower() not in by_name:
        raise UserError(f"--to: must be one of {', '.join(TARGETS)}, got {target!r}")
    return by_name[target.lower()]
