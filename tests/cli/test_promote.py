"""`loratrack promote`, `rollback`, `history`, `registry`: on models that were really trained."""

from __future__ import annotations

import getpass
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tests.cli.conftest import view

from loratrack.store.client import connect


def client() -> MlflowClient:
    return connect()


def aliases() -> dict[str, int]:
    return {alias: int(version) for alias, version in client().get_registered_model("tiny").aliases.items()}


def test_the_best_version_of_an_experiment_becomes_champion(ask: Any) -> None:
    code, out, _ = ask("promote", "second", "--why", "first try")
    assert code == 0
    assert out == (
        "passed: the reloaded model reproduces the training logits\n"
        "tiny: champion moved from none to 3\n"  # two runs with equal scores: the newer one
    ) + view("tiny/3")
    assert aliases() == {"champion": 3}
    assert "first try" in page(3)
    code, out, _ = ask("promote", "tiny/1", "--json")
    answer = json.loads(out)
    assert (code, answer["from"], answer["to"], answer["alias"], answer["why"]) == (0, 3, 1, "champion", "")
    code, out, _ = ask("history", "tiny")
    assert code == 0
    assert "first try" in out
    moves = json.loads(ask("history", "tiny", "--json")[1])["moves"]
    assert [(move["event"], move["from"], move["to"]) for move in moves] == [
        ("promote", None, 3),
        ("promote", 3, 1),
    ]


def page(version: int) -> str:
    return str(client().get_model_version("tiny", str(version)).description)


def test_the_page_of_a_version_says_its_scores_and_since_when_it_serves(ask: Any) -> None:
    version = client().get_model_version("tiny", "1")
    metrics = client().get_run(version.run_id).data.metrics
    before = page(1)
    f1, test_f1, accuracy, test_accuracy = (
        metrics[f"{kind}_avg_{measure}"] for measure in ("f1", "accuracy") for kind in ("best", "test")
    )
    assert (
        f"- avg: F1 {f1:.4f} (test {test_f1:.4f}), accuracy {accuracy:.4f} (test {test_accuracy:.4f})\n"
        in before
    )
    how = (
        f"\n\nPromote it with `loratrack promote {version.run_id[:12]}`: the model is loaded and must give"
        " the logits of its training. The button *Promote model* does not check that."
    )
    assert before.endswith(how)
    assert "`loratrack history tiny`" in client().get_registered_model("tiny").description
    user = getpass.getuser()
    ask("promote", "tiny/1", "--why", "the first")
    state, _, rest = page(1).partition("\n\n")
    assert re.fullmatch(rf"Champion since .* UTC, by {user}: the first\.", state)
    assert rest == before.removesuffix(how)
    ask("promote", "tiny/2")
    assert re.match(r"Champion until [^\n]* UTC\.\n\n", page(1))
    assert page(1).endswith(before)
    ask("rollback")
    assert page(1).count("Champion") == 1
    assert page(1).startswith("Champion since")
    assert "Promote it" not in page(1)
    assert page(2).count("Promote it") == 1


def test_a_run_is_named_by_the_beginning_of_its_id(ask: Any) -> None:
    run_id = client().get_model_version("tiny", "2").run_id
    code, _, err = ask("promote", run_id[:12], "--to", "Staging")
    assert code == 0, err
    assert aliases() == {"challenger": 2}
    assert ask("promote", run_id)[0] == 0
    assert aliases() == {"champion": 2}
    assert ask("promote", 3, "--model", "tiny", "--expect", 2)[0] == 0
    assert ask("promote", "tiny@previous-champion", "--expect", 3)[0] == 0
    assert aliases()["champion"] == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("tiny/9",), 1, "tiny/9: no such version; it has 1, 2, 3"),
        (("tinny/1",), 1, "'tinny': no such registered model; did you mean 'tiny'?"),
        (("frist",), 1, "did you mean 'first'?"),
        (("tiny/2", "--expect", "none"), 1, "tiny: champion must be none as --expect says, got 1"),
        (("tiny/2", "--expect", "3"), 1, "tiny: champion must be 3 as --expect says, got 1"),
        (("tiny/1",), 1, "tiny/1: is champion already"),
        (("tiny/2", "--expect", "soon"), 2, "--expect: must be the number of a version, or none"),
        (("tiny/2", "--to", "Canary"), 2, "--to: must be one of"),
        (("tiny/2", "--if", "avg_f1>=1.5"), 1, "does not meet --if\n  fails: avg_f1 >= 1.5, got"),
        (("tiny/2", "--if", "avg_f2>=0.5"), 2, "has no metric 'avg_f2'; did you mean 'avg_f1'?"),
        (("tiny/2", "--if", "avg_f1>="), 2, "after >= must be a value"),
        (("tiny/2", "--if", "avg_f1 better than champion by 0.9"), 1, "fails: avg_f1 better than champion"),
    ],
)
def test_what_is_refused_says_why(ask: Any, words: tuple[str, ...], code: int, told: str) -> None:
    assert ask("promote", "tiny/1")[0] == 0
    got, out, err = ask("promote", *words)
    assert (got, out) == (code, "")
    assert told in err
    assert aliases() == {"champion": 1}


def test_a_condition_that_holds_is_told(ask: Any) -> None:
    condition = "avg_f1>0.01 and risk_f1 not worse than champion by 1"
    code, out, _ = ask("promote", "first", "--if", condition)
    assert code == 0
    assert "holds: risk_f1 not worse than champion by 1, got " in out
    assert "and no champion" in out
    assert "the champion has" in ask("promote", "tiny/2", "--if", condition)[1]


@pytest.mark.parametrize("part", ["heads.safetensors", "probe.safetensors"])
def test_a_version_whose_files_changed_is_not_promoted(ask: Any, part: str) -> None:
    folder = Path(client().get_model_version_download_uri("tiny", "1"))
    [file] = folder.rglob(part)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = ask("promote", "tiny/1")
    assert code == 1
    assert "tiny/1: is not fit to serve: " in err
    assert "changed since the model was saved" in err
    assert aliases() == {}


def test_rollback_goes_back_and_back_again(ask: Any) -> None:
    assert ask("rollback")[::2] == (
        1,
        "loratrack: no registered model has a champion; loratrack promote makes one\n",
    )
    ask("promote", "tiny/1")
    assert "no earlier champion is there to go back to" in ask("rollback")[2]
    ask("promote", "tiny/2")
    code, out, _ = ask("rollback", "--why", "worse on Mondays")
    assert (code, out) == (0, "tiny: champion moved from 2 to 1\n" + view("tiny/1"))
    assert ask("rollback")[0] == 0
    assert aliases() == {"champion": 2, "previous-champion": 1}
    assert ask("rollback", "--exp-id", "first")[0] == 0
    code, out, _ = ask("rollback", "--to", "3")
    assert out.startswith("passed: the reloaded model")  # it was never champion, so it is checked
    assert ask("rollback", "--to", "3")[0] == 1
    assert aliases()["champion"] == 3


def test_moves_by_hand_are_told_and_mended(ask: Any) -> None:
    ask("promote", "tiny/1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client().transition_model_version_stage("tiny", "2", "Production")
    out = ask("history", "tiny")[1]
    assert "drift: version 2 is in stage Production, its aliases say Archived" in out
    assert "repair it: loratrack registry reconcile tiny" in out
    assert ask("registry", "reconcile")[:2] == (
        0,
        "tiny: version 2 was in stage Production and is in Archived again\n",
    )
    assert ask("registry", "reconcile", "tiny")[:2] == (0, "all in order\n")


def test_the_champion_is_not_deleted(ask: Any) -> None:
    ask("promote", "tiny/1")
    assert ask("registry", "delete", "tiny", 1)[0] == 1
    assert ask("registry", "delete", "tiny", 2, "--json")[0] == 0
    assert sorted(int(each.version) for each in client().search_model_versions("name='tiny'")) == [1, 3]


def test_a_model_that_never_moved_has_no_history(ask: Any) -> None:
    assert ask("history", "tiny")[:2] == (1, "tiny: no move yet\n")
    assert ask("history", "tyni")[0] == 1


WITHOUT_TORCH = """
import sys
from loratrack.cli import main
assert main(["rollback"]) == 0
assert main(["history", "tiny"]) == 0
assert main(["registry", "reconcile"]) == 0
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_the_way_back_needs_no_torch(ask: Any) -> None:
    ask("promote", "tiny/1")
    ask("promote", "tiny/2")
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True
    )
    assert process.stdout.endswith("[]\n")
