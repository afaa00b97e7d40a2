"""Training speed, ours and the peers side by side: python -m bench.train

--quick            CLINC150 alone, under 5 minutes on 2 cores; prints, and writes nothing but --json FILE
(no flag)          every section; bench/results/ and docs/benchmarks.md are written anew, section by section
--only short long  these sections; what the page says of the others stays as it is

No round is begun that would not end within --minutes, going by how long the section's last one took.
Data that may not be shipped is looked for in ../shared/data, or where LORATRACK_SHARED_DATA says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from bench import machine, report, workloads
from bench.assignment import Answer
from bench.machine import BUSY
from bench.page import keep
from bench.processes import ProcessFailed, run
from bench.report import Figures, Results
from bench.sections import NAMES, Section, section_named
from loratrack.tracking.environment import device_name

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> int:
    arguments = _arguments()
    timer = Timer(60 * arguments.minutes)
    described = describe(arguments.base)
    if described["load_at_start"] > BUSY:
        print(f"the machine is busy (load {described['load_at_start']}): do not trust these figures")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LORATRACK_CACHE"] = str(folder / "cache")
        chosen = _chosen(arguments, folder)
        found = [measure(section, described, arguments, timer, folder) for section in chosen]
    done = [results for results in found if results is not None]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([each.model_dump() for each in done], indent=1), "utf-8")
    print(f"done in {timer}", flush=True)
    return 0 if done and all(_is_complete(each) for each in done) else 1


class Timer:
    """Minutes and seconds since the start, and whether there is time for more."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def has_time_for(self, seconds: float) -> bool:
        return self.seconds + seconds <= self.limit_seconds

    def __str__(self) -> str:
        return f"{int(self.seconds) // 60}:{int(self.seconds) % 60:02}"


def measure(
    section: Section, described: dict[str, Any], arguments: argparse.Namespace, timer: Timer, folder: Path
) -> Results | None:
    """The section's rounds, printed and kept; None when there is no time for the first."""
    rates = [matrix_rates()]
    rounds: list[dict[str, Figures]] = []
    expected_seconds = section.round_seconds
    while len(rounds) < arguments.rounds and timer.has_time_for(expected_seconds):
        started = timer.seconds
        print(f"{timer} {section.name}: round {len(rounds) + 1} of {arguments.rounds}", flush=True)
        rounds.append(one_round(section, arguments.base, len(rounds), rates, folder))
        expected_seconds = timer.seconds - started
    if not rounds:
        print(f"{timer} {section.name}: not measured, no time is left; try --only {section.name}", flush=True)
        return None
    results = Results(
        section=section.name,
        title=section.title,
        note=section.note,
        machine=described,
        contenders={key: contender.title for key, contender in section.contenders.items()},
        pairs=section.pairs,
        rounds=tuple(rounds),
        matrix_rates=tuple(rates),
    )
    if not arguments.quick:
        keep(section.name, results)
    print(f"\n{report.section_page(results)}\n", flush=True)
    return results


def one_round(
    section: Section, base: str, number: int, rates: list[dict[str, float]], folder: Path
) -> dict[str, Figures]:
    """A figure for each contender that did not fail; the matrix rate is taken again after each."""
    figures: dict[str, Figures] = {}
    for key, contender in section.contenders.items():
        with tempfile.TemporaryDirectory(dir=folder) as gate:
            assignments = contender.assignments(section.workload, base, number, Path(gate))
            environment = machine.on_a_share_of_the_cores(len(assignments)) if contender.at_once else {}
            try:
                answers = run(contender.module, assignments, environment)
            except ProcessFailed as failure:
                print(f"  {contender.title}: failed: {failure}", file=sys.stderr, flush=True)
                continue
        rates.append(matrix_rates())
        figures[key] = summed(answers, rates[-2:])
        print(f"  {contender.title}: {told(figures[key], answers[0])}", flush=True)
    return figures


def summed(answers: Sequence[Answer], rates: Sequence[dict[str, float]]) -> Figures:
    """Processes that ran at the same time add up."""
    first = answers[0]
    tokens_per_second = sum(answer.tokens / answer.seconds for answer in answers)
    rate = mean(each[first.precision] for each in rates)
    return Figures(
        examples_per_second=sum(answer.examples / answer.seconds for answer in answers),
        tokens_per_second=tokens_per_second,
        share=report.work_share(first.linear_weights, tokens_per_second, rate),
        precision=first.precision,
        memory_mb=sum(answer.memory_bytes for answer in answers) / 1e6,
        metrics=tuple(each for answer in answers for each in answer.metrics),
    )


def told(figures: Figures, answer: Answer) -> str:
    layouts = [line for line in answer.notices if line.startswith("layout")][-1:]
    said = f"{figures.examples_per_second:.0f} examples/s, {figures.tokens_per_second:,.0f} tokens/s"
    return "; ".join([f"{said}, {100 * figures.share:.0f} % of the matrix rate", *layouts])


def matrix_rates() -> dict[str, float]:
    return {name: machine.matrix_rate(dtype) for name, dtype in DTYPES.items()}


def describe(base: str) -> dict[str, Any]:
    return {
        "base": Path(base).name,
        "device": device_name(),
        "has_gpu": torch.cuda.is_available(),
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "peft": version("peft"),
    }


def _chosen(arguments: argparse.Namespace, folder: Path) -> list[Section]:
    names = ["short"] if arguments.quick else arguments.only or list(NAMES)
    found = [section_named(name, folder) for name in names]
    chosen = [section for section in found if section is not None]
    if len(chosen) < len(found):
        missing = f"{workloads.shared_folder()} has no {workloads.SHOPPING}"
        print(f"long: not measured, since {missing}; {workloads.SHARED} names the folder")
    minutes = arguments.rounds * sum(section.round_seconds for section in chosen) / 60
    listed = ", ".join(section.name for section in chosen)
    print(
        f"{listed}: about {minutes:.0f} minutes on 2 quiet cores, at most {arguments.minutes:g}", flush=True
    )
    return chosen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="CLINC150 alone")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="SECTION", help=", ".join(NAMES))
    parser.add_argument("--base", default="minilm", help="a folder or a name, as in model.arch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, help="25, or 5 with --quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of this run to FILE too")
    arguments = parser.parse_args()
    if arguments.quick and arguments.only:
        parser.error("--quick is one section by itself; leave --only out")
    if arguments.minutes is None:
        arguments.minutes = 5 if arguments.quick else 25
    return arguments


def _is_complete(results: Results) -> bool:
    return all(each.keys() == results.contenders.keys() for each in results.rounds)


if __name__ == "__main__":
    sys.exit(main())
