"""Medians, ratios pair by pair, and the pages that show them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from bench.assignment import Frozen

Measure = Literal["examples/s", "time", "memory"]
FLOP_PER_WEIGHT = 4
"""For each token: 2 forward, and 2 backward for the gradient of the input; a frozen weight has none."""


class Figures(Frozen):
    """What one contender did in one round."""

    examples_per_second: float
    tokens_per_second: float
    share: float
    """Of the machine's matrix products in the same precision, measured just before and after."""
    precision: str
    memory_mb: float
    metrics: tuple[dict[str, float], ...] = ()


class Pair(Frozen):
    """Two contenders that are compared, round by round."""

    of: str
    against: str
    measure: Measure = "examples/s"
    aim: float | None = None


class Results(Frozen):
    """One section of the page."""

    section: str
    title: str
    note: str
    machine: dict[str, Any]
    contenders: dict[str, str]
    """Keys and titles, in the order in which they ran."""
    pairs: tuple[Pair, ...]
    rounds: tuple[dict[str, Figures], ...]
    """A contender that failed in a round is missing there."""
    matrix_rates: tuple[dict[str, float], ...] = ()
    """FLOP/s by precision, measured between the processes."""


def work_share(weights: int, tokens_per_second: float, rate: float) -> float:
    """Share of the machine's products that trains: 4 FLOP for each of the base's linear weights and token."""
    return FLOP_PER_WEIGHT * weights * tokens_per_second / rate


def ratio(pair: Pair, one_round: dict[str, Figures]) -> float | None:
    if pair.of not in one_round or pair.against not in one_round:
        return None
    of, against = one_round[pair.of], one_round[pair.against]
    match pair.measure:
        case "examples/s":
            return of.examples_per_second / against.examples_per_second
        case "time":
            return against.examples_per_second / of.examples_per_second
        case "memory":
            return of.memory_mb / against.memory_mb


def ratios(pair: Pair, rounds: Sequence[dict[str, Figures]]) -> list[float]:
    return [value for each in rounds if (value := ratio(pair, each)) is not None]


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """`median (least–most)`, or a dash for nothing."""
    if not values:
        return "–"
    middle = show(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))}–{show(max(values))})"


def section_page(results: Results) -> str:
    parts = [f"### {results.title}", results.note, speed_table(results)]
    if results.pairs:
        parts.append(ratio_table(results))
    if any(figures.metrics and figures.metrics[0] for each in results.rounds for figures in each.values()):
        parts.append(metrics_table(results))
    parts.append(_conditions(results))
    return "\n\n".join(part for part in parts if part)


def speed_table(results: Results) -> str:
    rows = []
    for key, title in results.contenders.items():
        figures = [each[key] for each in results.rounds if key in each]
        rows.append(
            [
                title,
                figures[0].precision if figures else "failed",
                spread([each.examples_per_second for each in figures], lambda value: f"{value:.0f}"),
                spread([each.tokens_per_second for each in figures], lambda value: f"{value:,.0f}"),
                spread([100 * each.share for each in figures], lambda value: f"{value:.0f} %"),
                spread([each.memory_mb for each in figures], lambda value: f"{value:,.0f}"),
            ]
        )
    headings = ["", "precision", "examples/s", "tokens/s", "share of matrix rate", "peak memory, MB"]
    return table(headings, rows)


def ratio_table(results: Results) -> str:
    rows = []
    for pair in results.pairs:
        values = ratios(pair, results.rounds)
        of, against = results.contenders[pair.of], results.contenders[pair.against]
        rows.append(
            [f"{of} / {against}", pair.measure, spread(values, lambda value: f"{value:.2f}"), _aim(pair)]
        )
    return table(["pair by pair", "of", "ratio", "aim"], rows)


def metrics_table(results: Results) -> str:
    """Test metrics in percent, and how far the first contender lies above each other one, seed by seed."""
    first, *others = results.contenders
    complete = [each for each in results.rounds if all(key in each for key in results.contenders)]
    rows = []
    for name in complete[0][first].metrics[0] if complete else ():
        if not name.startswith("test_") or not all(name in each.metrics[0] for each in complete[0].values()):
            continue
        values = {key: [100 * each[key].metrics[0][name] for each in complete] for key in results.contenders}
        cells = [spread(values[key], lambda value: f"{value:.2f}") for key in results.contenders]
        for key in others:
            gaps = [a - b for a, b in zip(values[first], values[key], strict=True)]
            cells.append(f"{statistics.mean(gaps):+.2f}")
        rows.append([name, *cells])
    headings = [*results.contenders.values(), *(f"mean gap to {results.contenders[key]}" for key in others)]
    return table(["metric, %", *headings], rows)


def page(sections: Sequence[Results], others: Mapping[str, str] | None = None) -> str:
    """The whole of docs/benchmarks.md: the machines one after the other.

    `others`: by the heading of the machine what stands behind its sections.
    """
    others = others or {}
    parts = [INTRODUCTION]
    if not any(each.machine.get("has_gpu") for each in sections):
        parts.append("Nothing was measured on a GPU yet: none was at hand.")
    for device in dict.fromkeys([*(heading(each.machine) for each in sections), *others]):
        parts.append(f"## {device}")
        parts += [section_page(each) for each in sections if heading(each.machine) == device]
        parts += [others[device]] if device in others else []
    return "\n\n".join(parts) + "\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _aim(pair: Pair) -> str:
    if pair.aim is None:
        return ""
    return f"{'≥' if pair.measure == 'examples/s' else '≤'} {pair.aim:g}"


def heading(machine: dict[str, Any]) -> str:
    """Figures under one heading were taken on one kind of machine, on one base."""
    place = f"{machine['device']}, {machine['cores']} cores"
    return place if machine["base"] == "minilm" else f"{place}: {machine['base']}"


def _conditions(results: Results) -> str:
    """How many rounds, and how quiet the machine was."""
    rates = {
        precision: spread([each[precision] / 1e9 for each in results.matrix_rates], lambda v: f"{v:,.0f}")
        for precision in (results.matrix_rates[0] if results.matrix_rates else {})
    }
    said = ", ".join(f"{precision} {rate}" for precision, rate in rates.items())
    machine = results.machine
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft"))
    return (
        f"{len(results.rounds)} round(s) on {machine['date']}, load {machine['load_at_start']} at the start,"
        f" {versions}. Matrix products, GFLOP/s: {said}."
    )


INTRODUCTION = """# Benchmarks

Written by `python -m bench.train` and `python -m bench.checkpoint`; do not edit. Raw figures lie in
`bench/results/`.

Ours and what people run today train on the same machine, the same rows, the same base (all-MiniLM-L6-v2),
LoRA on query and value, the same rank, rates, schedule, batch size and seed. One process each, in turn, round
after round; shown are the median and, in brackets, the least and the most of the rounds. A ratio is taken
inside each round, then the median of the ratios.
Figures are of the code of the day that stands below them. On a GPU ten times as many steps are taken; a
base named there by its folder is the built-in one with its weights rounded to bf16
(*all-MiniLM-L6-v2-bf16*), or has BERT-base's shape and random weights (*bert-base-random*).

- *examples/s*, *tokens/s*: over the training steps after a warm-up. Import, loading, tokenising and
  evaluation are left out for all. Tokens are real ones; padding is not counted.
- *share of matrix rate*: (4 FLOP × weights of the base's linear layers × tokens/s) ÷ the rate of plain matrix
  products in the same precision, measured just before and after each process: the higher median of a
  2048×2048×2048 product and of the base's two largest on 4,096 tokens. A frozen weight costs 2 FLOP for a
  token forward and 2 backward. Attention, LoRA itself, heads and the optimizer are not counted as work done.
- *peak memory*: the high-water mark of the process (resident memory on a CPU, reserved memory on a GPU).
- Peers are `transformers.Trainer` with PEFT, in `bench/peers/`: *padded* pads every text to 128 tokens,
  *dynamic* each batch to its longest text, both in fp32; *grouped* adds bf16 and batches of similar length.
  They keep the base's own dropout, as PEFT leaves it on; ours switches it off in a frozen base."""
