"""Moves of a champion: who wins, what the history says, what a killed process or a hand leaves behind."""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from tests.stores import use

from loratrack.errors import RefusedError, UserError
from loratrack.registry import events, promotion
from loratrack.registry.promotion import CHALLENGER, CHAMPION
from loratrack.store.client import connect

MODEL = "clinc"


def stages(client: MlflowClient, model: str = MODEL) -> dict[int, str]:
    found = client.search_model_versions(f"name = '{model}'")
    return {int(version.version): version.current_stage for version in found}


def moves(model: str = MODEL) -> list[tuple[str, int | None, int | None]]:
    return [(event.kind, event.before, event.after) for event in promotion.history(model)]


def set_stage(client: MlflowClient, version: int, stage: str, model: str = MODEL) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(model, str(version), stage)


def add_versions(client: MlflowClient, count: int, model: str = MODEL) -> None:
    client.create_registered_model(model)
    for _ in range(count):
        client.create_model_version(model, "s3://nowhere/model")


@pytest.fixture
def registry(client: MlflowClient) -> MlflowClient:
    """A model with four versions and no champion."""
    add_versions(client, 4)
    return client


def fit() -> None:
    """The gate of a version that is fit to serve."""


def test_no_alias_moves_past_a_gate_that_refuses(registry: MlflowClient) -> None:
    def unfit() -> None:
        raise RefusedError("other logits")

    with pytest.raises(RefusedError, match="other logits"):
        promotion.promote(MODEL, 1, expected=None, gate=unfit)
    assert promotion.aliases(MODEL) == {}
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    with pytest.raises(RefusedError, match="other logits"):
        promotion.rollback(MODEL, 2, expected=1, gate=unfit)  # never champion: the gate is asked
    promotion.promote(MODEL, 2, expected=1, gate=fit)
    promotion.rollback(MODEL, 1, expected=2, gate=unfit)  # champion before: it was let through then
    assert promotion.aliases(MODEL) == {"champion": 1, "previous-champion": 2}


def test_a_promotion_moves_alias_and_stage_and_is_told(registry: MlflowClient) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    move = promotion.promote(MODEL, 2, expected=1, why="better on intents", gate=fit)
    assert move.repairs == ()
    assert promotion.aliases(MODEL) == {CHAMPION: 2, "previous-champion": 1}
    assert stages(registry) == {1: "Archived", 2: "Production", 3: "None", 4: "None"}
    last = promotion.history(MODEL)[-1]
    assert (last.kind, last.before, last.after, last.why) == ("promote", 1, 2, "better on intents")
    assert last.who
    run = registry.get_run(last.run_id)
    assert run.info.run_name == "clinc: promote 1 → 2"
    assert registry.get_experiment(run.info.experiment_id).name == "registry-events"
    assert promotion.drift(MODEL) == []


def test_a_challenger_is_in_staging_until_it_is_champion(registry: MlflowClient) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    promotion.promote(MODEL, 2, CHALLENGER, expected=None, gate=fit)
    assert promotion.aliases(MODEL) == {CHAMPION: 1, CHALLENGER: 2}
    assert stages(registry) == {1: "Production", 2: "Staging", 3: "None", 4: "None"}
    promotion.promote(MODEL, 2, expected=1, gate=fit)
    assert promotion.aliases(MODEL) == {CHAMPION: 2, "previous-champion": 1}
    assert promotion.drift(MODEL) == []


def test_a_rollback_of_a_rollback_is_back_again(registry: MlflowClient) -> None:
    for version, expected in ((1, None), (2, 1), (3, 2)):
        promotion.promote(MODEL, version, expected=expected, gate=fit)
    assert promotion.previous_champion(MODEL) == 2
    promotion.rollback(MODEL, 2, expected=3, gate=fit)
    assert promotion.previous_champion(MODEL) == 3
    promotion.rollback(MODEL, 3, expected=2, gate=fit)
    assert promotion.aliases(MODEL) == {CHAMPION: 3, "previous-champion": 2}
    assert moves()[-2:] == [("rollback", 3, 2), ("rollback", 2, 3)]


def test_a_rollback_passes_over_versions_that_were_deleted(registry: MlflowClient) -> None:
    for version, expected in ((1, None), (2, 1), (3, 2)):
        promotion.promote(MODEL, version, expected=expected, gate=fit)
    promotion.delete(MODEL, 2)
    assert promotion.previous_champion(MODEL) == 1
    promotion.delete(MODEL, 1)
    with pytest.raises(RefusedError) as caught:
        promotion.previous_champion(MODEL)
    assert str(caught.value) == "clinc: no earlier champion is there to go back to; version 3 is the only one"


def test_a_champion_deleted_by_hand_can_be_rolled_back(registry: MlflowClient) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    promotion.promote(MODEL, 2, expected=1, gate=fit)
    registry.delete_model_version(MODEL, "2")
    assert [drift.text for drift in promotion.drift(MODEL)] == [
        "the move of champion from version 2 to no version was done outside loratrack"
    ]
    assert promotion.previous_champion(MODEL) == 1
    promotion.rollback(MODEL, 1, expected=None, gate=fit)
    assert moves()[-2:] == [("noticed", 2, None), ("rollback", None, 1)]
    assert promotion.drift(MODEL) == []


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (
            lambda: promotion.promote(MODEL, 3, expected=2, gate=fit),
            "clinc: champion must still be version 2, got version 1;"
            " look at loratrack history clinc, then decide again",
        ),
        (lambda: promotion.promote(MODEL, 1, expected=1, gate=fit), "clinc/1: is champion already"),
        (
            lambda: promotion.promote(MODEL, 9, expected=1, gate=fit),
            "clinc/9: no such version; it has 1, 2, 3, 4",
        ),
        (
            lambda: promotion.promote(MODEL, 1, CHALLENGER, expected=None, gate=fit),
            "clinc/1: is champion, and no version challenges itself; promote another first",
        ),
        (
            lambda: promotion.delete(MODEL, 1),
            "clinc/1: is champion, so it is not deleted; promote another version first",
        ),
        (lambda: promotion.aliases("clink"), "'clink': no such registered model; did you mean 'clinc'?"),
    ],
)
def test_what_is_refused_changes_nothing(
    registry: MlflowClient, act: Callable[[], object], told: str
) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    before = (promotion.aliases(MODEL), stages(registry), moves())
    with pytest.raises(RefusedError) as caught:
        act()
    assert str(caught.value) == told
    assert (promotion.aliases(MODEL), stages(registry), moves()) == before


@pytest.mark.parametrize("target", ["champion", "Production", "production"])
def test_a_stage_means_its_alias(target: str) -> None:
    assert promotion.alias_of(target) == CHAMPION


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UserError, match=r"--to: must be one of champion, challenger, Production, Staging"):
        promotion.alias_of("Canary")


def test_moves_by_hand_are_noticed_and_mended(registry: MlflowClient) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    set_stage(registry, 3, "Production")
    assert promotion.drifts() == {
        MODEL: [promotion.Drift(MODEL, "stage", "version 3 is in stage Production, its aliases say Archived")]
    }
    registry.set_registered_model_alias(MODEL, CHAMPION, "2")
    assert moves()[-1] == ("noticed", 1, 2)
    repairs = promotion.reconcile(MODEL)
    assert repairs[0] == (
        "the move of champion from version 1 to version 2 was done outside loratrack; the history has it now"
    )
    assert stages(registry) == {1: "Archived", 2: "Production", 3: "Archived", 4: "None"}
    assert promotion.drift(MODEL) == []
    assert promotion.reconcile(MODEL) == ()
    assert promotion.replay(promotion.history(MODEL)) == {CHAMPION: 2}


KILLED_BEFORE = """
import os, signal, sys
from mlflow import MlflowClient
from mlflow.tracking._model_registry.client import ModelRegistryClient
from loratrack.registry import promotion
for client in (MlflowClient, ModelRegistryClient):
    setattr(client, sys.argv[1], lambda *arguments, **named: os.kill(os.getpid(), signal.SIGKILL))
promotion.promote("clinc", 2, expected=1, gate=lambda: None)
"""


def promote_and_be_killed_before(step: str) -> None:
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED_BEFORE, step])
    assert process.returncode == -signal.SIGKILL


def test_killed_between_stage_and_alias_nothing_has_moved(registry: MlflowClient) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    promote_and_be_killed_before("set_registered_model_alias")
    assert stages(registry)[2] == "Production"
    assert promotion.aliases(MODEL)[CHAMPION] == 1
    assert {drift.kind for drift in promotion.drift(MODEL)} == {"unfinished", "stage"}
    repairs = promotion.reconcile(MODEL)
    assert repairs[0].endswith("was never made; its record says so")
    assert stages(registry) == {1: "Production", 2: "Archived", 3: "None", 4: "None"}
    assert moves()[:1] == [("promote", None, 1)]
    assert promotion.replay(promotion.history(MODEL)) == {CHAMPION: 1}
    assert promotion.drift(MODEL) == []


def test_killed_after_the_alias_the_move_is_made(registry: MlflowClient) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    promote_and_be_killed_before("set_terminated")
    assert [drift.kind for drift in promotion.drift(MODEL)] == ["unfinished"]
    promotion.promote(MODEL, 3, expected=2, gate=fit)
    assert moves() == [("promote", None, 1), ("promote", 1, 2), ("promote", 2, 3)]
    assert promotion.drift(MODEL) == []


@pytest.mark.parametrize("step", ["delete_registered_model_alias", "set_terminated"])
def test_killed_after_the_alias_the_history_has_the_move_and_no_other(
    registry: MlflowClient, step: str
) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    promotion.promote(MODEL, 2, "challenger", expected=None, gate=fit)
    promote_and_be_killed_before(step)
    assert moves() == [("promote", None, 1), ("promote", None, 2), ("promote", 1, 2)]
    assert {drift.kind for drift in promotion.drift(MODEL)} <= {"unfinished", "stage"}
    told = promotion.history(MODEL)
    promotion.reconcile(MODEL)
    assert [event.run_id for event in promotion.history(MODEL)[:3]] == [event.run_id for event in told]
    assert promotion.aliases(MODEL) == {CHAMPION: 2, "previous-champion": 1}
    assert promotion.drift(MODEL) == []


def test_another_machine_is_not_declared_dead(
    registry: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotion.promote(MODEL, 1, expected=None, gate=fit)
    monkeypatch.setattr(events, "WAIT_SECONDS", 0.2)
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "far-away")
        wanted = events.Event(MODEL, CHAMPION, "promote", 1, 2)
        events.write(registry, wanted, at_ms=time.time_ns() // 1_000_000)
    with pytest.raises(RefusedError, match=r"on far-away has been under way .* reconcile clinc --force"):
        promotion.promote(MODEL, 3, expected=1, gate=fit)
    assert promotion.aliases(MODEL) == {CHAMPION: 1}
    assert promotion.reconcile(MODEL, force=True)[0].endswith("was never made; its record says so")
    promotion.promote(MODEL, 3, expected=1, gate=fit)


PROMOTE_AT_ONCE = """
import sys
from contextlib import nullcontext
from loratrack.errors import RefusedError
from loratrack.registry import events, promotion
model, where, version = sys.argv[1:]
if where == "apart":
    events.locked = lambda file: nullcontext()  # as machines that share a server and no disk
promotion.aliases(model)
print("ready", flush=True)
sys.stdin.readline()
try:
    promotion.promote(model, int(version), expected=1, gate=lambda: None)
except RefusedError as error:
    sys.exit(str(error))
"""


@pytest.fixture(params=["sqlite", "postgresql", "server"])
def team_store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> MlflowClient:
    """Each kind of store in turn."""
    name = "empty_database" if request.param == "sqlite" else request.param
    uri = request.getfixturevalue(name)
    if request.param == "sqlite":
        uri = f"sqlite:///{shutil.copy(uri, tmp_path)}"
    return MlflowClient(use(uri, monkeypatch, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["together", "apart"])
def test_promotions_at_the_same_instant_leave_one_winner(team_store: MlflowClient, where: str) -> None:
    model = f"at-once-{where}"
    add_versions(team_store, 3, model)
    promotion.promote(model, 1, expected=None, gate=fit)
    command = [sys.executable, "-W", "ignore", "-c", PROMOTE_AT_ONCE, model, where]
    started = [
        subprocess.Popen([*command, str(version)], stdin=-1, stdout=-1, stderr=-1, text=True)
        for version in (2, 3)
    ]
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    faults = [one.communicate()[1] for one in started]
    codes = [one.returncode for one in started]
    assert sorted(codes) == [0, 1], faults
    winner = codes.index(0) + 2
    assert moves(model) == [("promote", None, 1), ("promote", 1, winner)]
    assert promotion.aliases(model) == {CHAMPION: winner, "previous-champion": 1}
    assert promotion.drift(model) == []
    assert f"must still be version 1, got version {winner}" in "".join(faults)


ACTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["promote", "challenge", "rollback", "delete", "alias", "stage", "remove", "reconcile"]
        ),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=8,
)
counter = itertools.count()


def act(client: MlflowClient, model: str, name: str, version: int) -> None:
    """One step of a sequence; what is refused is part of it."""
    now = promotion.aliases(model)
    match name:
        case "promote":
            promotion.promote(model, version, expected=now.get(CHAMPION), gate=fit)
        case "challenge":
            promotion.promote(model, version, CHALLENGER, expected=now.get(CHALLENGER), gate=fit)
        case "rollback":
            promotion.rollback(
                model, promotion.previous_champion(model), expected=now.get(CHAMPION), gate=fit
            )
        case "delete":
            promotion.delete(model, version)
        case "alias" if version in stages(client, model):
            client.set_registered_model_alias(model, CHAMPION, str(version))
        case "stage" if version in stages(client, model):
            set_stage(client, version, ("Production", "Staging", "Archived", "None")[version - 1], model)
        case "remove" if version in stages(client, model):
            client.delete_model_version(model, str(version))
        case "reconcile":
            promotion.reconcile(model)


def check_law(client: MlflowClient, model: str, *, has_champion: bool) -> None:
    """One champion, in Production alone; the history leads to what is."""
    now, found = promotion.aliases(model), stages(client, model)
    champion, challenger = now.get(CHAMPION), now.get(CHALLENGER)
    assert (champion is not None) == has_champion
    assert [v for v, stage in found.items() if stage == "Production"] == [champion] * has_champion
    staged = [challenger] if challenger not in (None, champion) else []
    assert [v for v, stage in found.items() if stage == "Staging"] == staged
    made = promotion.history(model)
    assert promotion.replay(made) == {alias: v for alias, v in now.items() if alias != "previous-champion"}
    assert all(event.status == "FINISHED" for event in made)
    champions = [event for event in made if event.alias == CHAMPION]
    assert all(one.after == two.before for one, two in itertools.pairwise(champions))


@contextmanager
def default_store(uri: str) -> Iterator[MlflowClient]:
    with pytest.MonkeyPatch.context() as settings_of_it:
        settings_of_it.setenv("MLFLOW_TRACKING_URI", uri)
        yield connect()


@pytest.fixture(scope="module")
def shared_store(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("shared") / "mlflow.db"
    shutil.copy(empty_database, file)
    return f"sqlite:///{file}"


def walk(uri: str, acts: list[tuple[str, int]]) -> None:
    with default_store(uri) as client:
        model = f"model-{next(counter)}"
        add_versions(client, 4, model)
        has_champion = False
        for name, version in acts:
            champion = promotion.aliases(model).get(CHAMPION)
            is_there = version in stages(client, model)
            try:
                act(client, model, name, version)
            except RefusedError:
                continue
            has_champion |= name in ("promote", "rollback") or (name == "alias" and is_there)
            has_champion &= (name, version) != ("remove", champion)
            now = promotion.aliases(model)
            assert promotion.replay(promotion.history(model)).get(CHAMPION) == now.get(CHAMPION)
        promotion.reconcile(model)
        check_law(client, model, has_champion=has_champion)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(acts=ACTS)
def test_any_sequence_keeps_one_champion_and_a_true_history(
    shared_store: str, acts: list[tuple[str, int]]
) -> None:
    walk(shared_store, acts)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(acts=ACTS)
def test_two_hundred_sequences(shared_store: str, acts: list[tuple[str, int]]) -> None:
    walk(shared_store, acts)
