"""Medians, ratios pair by pair, and the tables they are shown in."""

from __future__ import annotations

import pytest
from bench.report import (
    Figures,
    Pair,
    Results,
    metrics_table,
    page,
    ratio_table,
    ratios,
    section_page,
    speed_table,
    spread,
    work_share,
)


def figures(examples_per_second: float, memory_mb: float = 100, **metrics: float) -> Figures:
    return Figures(
        examples_per_second=examples_per_second,
        tokens_per_second=10 * examples_per_second,
        share=examples_per_second / 1000,
        precision="bf16",
        memory_mb=memory_mb,
        metrics=(metrics,),
    )


def results(
    *rounds: dict[str, Figures],
    pairs: tuple[Pair, ...] = (),
    device: str = "a machine",
    base: str = "minilm",
) -> Results:
    return Results(
        section="short",
        title="Short texts",
        note="A note.",
        machine={
            "base": base,
            "device": device,
            "cores": 2,
            "load_at_start": 0.1,
            "date": "2026-01-02",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "peft": "0.21.2",
        },
        contenders={"ours": "ours", "peer": "a peer"},
        pairs=pairs,
        rounds=rounds,
        matrix_rates=({"bf16": 400e9}, {"bf16": 440e9}),
    )


ROUNDS = (
    {"ours": figures(100), "peer": figures(50)},
    {"ours": figures(300), "peer": figures(60)},
    {"ours": figures(120), "peer": figures(120)},
)


def test_ratios_are_taken_inside_each_round() -> None:
    assert ratios(Pair(of="ours", against="peer"), ROUNDS) == [2, 5, 1]


def test_a_ratio_of_times_is_the_other_way_round() -> None:
    assert ratios(Pair(of="ours", against="peer", measure="time"), ROUNDS) == [0.5, 0.2, 1]


def test_a_ratio_of_memory() -> None:
    one_round = {"ours": figures(1, memory_mb=105), "peer": figures(1, memory_mb=100)}
    assert ratios(Pair(of="ours", against="peer", measure="memory"), [one_round]) == [1.05]


def test_a_round_in_which_one_failed_gives_no_ratio() -> None:
    assert ratios(Pair(of="ours", against="peer"), [*ROUNDS, {"ours": figures(1)}]) == [2, 5, 1]


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], "–"), ([3], "3"), ([1, 9, 2], "2 (1–9)"), ([1, 2, 3, 4], "2 (1–4)")],
)
def test_a_spread_is_median_least_and_most(values: list[float], shown: str) -> None:
    assert spread(values, lambda value: f"{value:.0f}") == shown


def test_work_is_four_flop_for_each_weight_and_token() -> None:
    assert work_share(10_000_000, tokens_per_second=5_000, rate=400e9) == 0.5


def test_the_speed_table() -> None:
    assert speed_table(results(*ROUNDS)).splitlines() == [
        "|  | precision | examples/s | tokens/s | share of matrix rate | peak memory, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| ours | bf16 | 120 (100–300) | 1,200 (1,000–3,000) | 12 % (10 %–30 %) | 100 (100–100) |",
        "| a peer | bf16 | 60 (50–120) | 600 (500–1,200) | 6 % (5 %–12 %) | 100 (100–100) |",
    ]


def test_a_contender_that_always_failed_is_told() -> None:
    assert "| a peer | failed | – | – | – | – |" in speed_table(results({"ours": figures(100)}))


def test_the_ratio_table_says_the_aim() -> None:
    pairs = (
        Pair(of="ours", against="peer", aim=3),
        Pair(of="ours", against="peer", measure="time", aim=1.05),
        Pair(of="ours", against="peer", measure="memory"),
    )
    assert ratio_table(results(*ROUNDS, pairs=pairs)).splitlines()[2:] == [
        "| ours / a peer | examples/s | 2.00 (1.00–5.00) | ≥ 3 |",
        "| ours / a peer | time | 0.50 (0.20–1.00) | ≤ 1.05 |",
        "| ours / a peer | memory | 1.00 (1.00–1.00) |  |",
    ]


def test_metrics_are_compared_seed_by_seed() -> None:
    rounds = (
        {"ours": figures(1, test_f1=0.95, best_f1=0.1), "peer": figures(1, test_f1=0.94)},
        {"ours": figures(1, test_f1=0.93), "peer": figures(1, test_f1=0.94)},
        {"ours": figures(1, test_f1=0.96), "peer": figures(1, test_f1=0.93)},
        {"ours": figures(1, test_f1=0.0)},
    )
    assert metrics_table(results(*rounds)).splitlines() == [
        "| metric, % | ours | a peer | mean gap to a peer |",
        "| --- | ---: | ---: | ---: |",
        "| test_f1 | 95.00 (93.00–96.00) | 94.00 (93.00–94.00) | +1.00 |",
    ]


def test_a_section_without_metrics_shows_no_table_of_them() -> None:
    assert "metric, %" not in section_page(results(*ROUNDS))


def test_a_section_says_how_it_was_measured() -> None:
    last_line = section_page(results(*ROUNDS)).splitlines()[-1]
    assert last_line == (
        "3 round(s) on 2026-01-02, load 0.1 at the start, torch 2.13.0, transformers 5.23.0, peft 0.21.2."
        " Matrix products, GFLOP/s: bf16 420 (400–440)."
    )


def test_the_page_has_one_part_for_each_machine_and_base() -> None:
    text = page(
        [
            results(*ROUNDS, device="one"),
            results(*ROUNDS, device="two"),
            results(device="one"),
            results(device="two", base="bert-base"),
        ]
    )
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## one, 2 cores",
        "## two, 2 cores",
        "## two, 2 cores: bert-base",
    ]
    assert text.count("### Short texts") == 4


def test_results_survive_their_file() -> None:
    before = results(*ROUNDS, pairs=(Pair(of="ours", against="peer", aim=3),))
    assert Results.model_validate_json(before.model_dump_json()) == before
