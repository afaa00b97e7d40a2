"""Keeps the figures of each machine in bench/results/, and writes docs/benchmarks.md from all of them."""

from __future__ import annotations

import re
from pathlib import Path

from bench import report, saving
from bench.report import Results, heading
from bench.saving import Checkpoints
from bench.sections import NAMES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
CHECKPOINTS = "checkpoints"


def keep(name: str, results: Results | Checkpoints) -> None:
    """Put these figures beside the others of their machine, and write the page anew."""
    home = RESULTS / re.sub(r"\W+", "-", heading(results.machine).lower()).strip("-")
    home.mkdir(parents=True, exist_ok=True)
    (home / f"{name}.json").write_text(results.model_dump_json(indent=1) + "\n", "utf-8")
    PAGE.write_text(page(RESULTS), "utf-8")


def page(folder: Path) -> str:
    trainings, checkpoints = [], {}
    for file in sorted(folder.glob("*/*.json")):
        content = file.read_text("utf-8")
        if file.stem == CHECKPOINTS:
            saves = Checkpoints.model_validate_json(content)
            checkpoints[heading(saves.machine)] = saving.section_page(saves)
        else:
            trainings.append(Results.model_validate_json(content))
    trainings.sort(key=lambda each: (heading(each.machine), NAMES.index(each.section)))
    return report.page(trainings, checkpoints)
