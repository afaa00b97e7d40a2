"""What a save costs is counted once, damage is real, and the page says it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench.assignment import Recipe
from bench.checkpoint import few_rows, our_damages, ours, saves, slowed_seconds
from bench.page import CHECKPOINTS, page
from bench.peers.saving import damage_each, flipped
from bench.saving import (
    CONTENDERS,
    Checkpoints,
    Loop,
    Saves,
    damages_table,
    loop_table,
    saves_table,
    section_page,
    sizes_table,
)

LOOP = Loop(seconds=10, seconds_with=11, saves=20, lost_ms=300, slowed_ms=600)
SAVES = Saves(
    first_ms=9,
    loop_ms=4.04,
    whole_ms=1234.5,
    back_ms=20,
    trained=1_000_000,
    files={"training.safetensors": 12_300_000, "best/heads.safetensors": 4_000_000, "state.json": 60_000},
)
ROUND = dict.fromkeys(CONTENDERS, SAVES)
RESULTS = Checkpoints(
    machine={
        "base": "minilm",
        "device": "a machine",
        "cores": 2,
        "threads": 1,
        "date": "2026-01-02",
        "load_at_start": 0.1,
        **dict.fromkeys(("torch", "transformers", "peft", "accelerate"), "1.0"),
    },
    loops=(LOOP,),
    rounds=(ROUND,),
    damages={"ours": {"no training.safetensors": "refused"}},
)


def test_what_a_save_costs_is_reckoned_to_the_default_interval() -> None:
    assert LOOP.share == pytest.approx(0.9 / 300)
    assert LOOP.model_copy(update={"slowed_ms": -50}).share == pytest.approx(
        0.3 / 300
    )  # chance gives nothing


def test_steps_beside_a_save_are_compared_with_those_around_it() -> None:
    """The machine becomes half as fast in the middle, which is not the saves' fault."""
    quick = [(float(second), second + 1.0) for second in range(10)]
    slow = [(10.0 + 2 * number, 12.0 + 2 * number) for number in range(10)]
    steps = [*quick[:5], (5.0, 5.5), (5.5, 6.5), *quick[7:], *slow]
    assert slowed_seconds(steps, [(5.6, 5.7)]) == 0
    assert slowed_seconds(steps, [(14.5, 15.0)]) == 0
    assert slowed_seconds(steps, [(5.1, 5.9)]) == pytest.approx(-0.5)
    assert slowed_seconds(steps, []) == 0


def test_one_bit_of_a_number_behind_the_middle_is_flipped() -> None:
    before = np.array([0.3, 0.3, 0, 1e-30, -0.02, 0.5], dtype=np.float32)
    after = np.frombuffer(flipped(before.tobytes()), dtype=np.float32)
    np.testing.assert_allclose(after, [0.3, 0.3, 0, 1e-30, -0.08, 0.5], rtol=1e-6)


def test_each_file_is_damaged_twice_and_mended(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"0123456789")

    def go_on() -> str:
        return "same" if file.read_bytes() == b"0123456789" else "other"

    assert damage_each(tmp_path, ("weights",), go_on) == {
        "nothing wrong": "same",
        "no weights": "refused: FileNotFoundError",
        "one bit of weights flipped": "other",
    }
    assert go_on() == "same"


def test_a_save_of_ours_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "cache"))
    workload = few_rows(tmp_path, 40)
    found = saves(ours(workload, Recipe(batch_size=4, rank=2)), tmp_path / "saves", 2)
    assert 0 < found.loop_ms <= found.whole_ms
    assert found.back_ms > 0
    assert 1 < found.files["training.safetensors"] / (12 * found.trained) < 1.05
    assert "best/heads.safetensors" in found.files
    assert not (tmp_path / "saves").exists()


def test_ours_goes_on_to_the_same_weights_whatever_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "cache"))
    workload = few_rows(tmp_path, 40)
    outcomes = our_damages(ours(workload, Recipe(batch_size=4, rank=2)), tmp_path / "saves")
    before = "told, and from the checkpoint before it the same weights"
    assert list(outcomes.values()) == ["the same weights", before, before, before, before]


def test_the_table_of_saves() -> None:
    other = {**ROUND, "ours": SAVES.model_copy(update={"loop_ms": 6})}
    line = saves_table([ROUND, other]).splitlines()[2]
    assert line.startswith("| ours, MiniLM r16 | 9.0 (9.0–9.0) | 5.0 (4.0–6.0) | 1,234 (1,234–1,234) | 20.0")
    assert saves_table([other]).splitlines()[3].endswith("| 4.0 | 1,234 | 20.0 | 0.7 |")


def test_the_table_of_the_loop_says_the_aim() -> None:
    assert loop_table([LOOP]).splitlines()[2:] == [
        "| the loop waits for a save, ms | 300 |  |",
        "| steps beside a save are longer by, ms | 600 |  |",
        "| whole training with 20 saves / without | 1.10 |  |",
        "| share of wall time with a save every 5 minutes | 0.300 % | ≤ 0.5 % |",
    ]


def test_what_is_linked_is_not_counted_as_written() -> None:
    assert sizes_table(ROUND).splitlines()[2] == "| ours, MiniLM r16 | 1,000,000 | 12.36 | 1.030 | 4.00 |"


def test_the_table_of_damages() -> None:
    assert damages_table(RESULTS.damages).splitlines()[2:] == ["| ours | no training.safetensors | refused |"]


def test_the_page_says_when_the_machine_was_busy() -> None:
    busy = RESULTS.model_copy(update={"machine": {**RESULTS.machine, "load_at_start": 4.2}})
    assert "load 4.2 at the start (a busy machine), 1 thread(s)" in section_page(busy)
    assert "load 0.1 at the start, 1 thread(s)" in section_page(RESULTS)


def test_the_page_has_the_checkpoints_under_their_machine(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / f"{CHECKPOINTS}.json").write_text(RESULTS.model_dump_json(), "utf-8")
    text = page(tmp_path)
    assert text.index("## a machine, 2 cores\n") < text.index(section_page(RESULTS))
