"""How a message counts its problems and names what was probably meant."""

from __future__ import annotations

import pytest

from loratrack.errors import closest, counted, did_you_mean, problems_message, quoted


def test_a_message_counts_its_problems() -> None:
    assert problems_message("train.csv", ["is empty"]) == "train.csv: 1 problem\n  is empty"
    two = problems_message("x.yaml", ["a: must be given", "b: must be given"], "invalid setting")
    assert two == "x.yaml: 2 invalid settings\n  a: must be given\n  b: must be given"


@pytest.mark.parametrize(("count", "words"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_a_count_has_a_proper_plural(count: int, words: str) -> None:
    assert counted(count, "row") == words


def test_the_nearest_name_is_offered() -> None:
    assert closest("trian", ["train", "test"]) == "train"
    assert closest("zzz", ["train", "test"]) is None
    assert did_you_mean("trian", ["train", "test"]) == "; did you mean 'train'?"
    assert did_you_mean("trian", ["train", "test"], cutoff=0.95) == ""


def test_a_name_of_megabytes_is_shown_by_its_ends() -> None:
    assert quoted("risk") == "'risk'"
    shown = quoted("begin" + "x" * 10_000_000 + "end")
    assert len(shown) <= 120
    assert (shown[:6], shown[-4:]) == ("'begin", "end'")
    assert quoted(["a", "b"]) == "['a', 'b']"
    assert quoted([f"c{number}" for number in range(200_000)]).endswith("'c18', 'c19', …]")


def test_nothing_is_as_near_as_a_name_of_megabytes() -> None:
    assert closest("x" * 10_000_000, ["train"]) is None
    assert closest("train", ["x" * 10_000_000, "trian"]) == "trian"
