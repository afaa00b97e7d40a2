"""Encodes one CSV through the token cache, for tests that need processes: CSV [--meet FOLDER] [--limits N,N].

Prints one JSON line for each attempt: the sha256 of the tokens, or the message of the UserError.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from loratrack import data
from loratrack.config import RunConfig
from loratrack.errors import UserError

FIRST, BETWEEN = 1, 2


class WordTokenizer:
    """Words by their checksum between two special tokens; a pair gets token type 1. Counts its calls."""

    sep_token = "[SEP]"
    all_special_ids = (FIRST, BETWEEN)
    unk_token_id = None

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
    ) -> dict[str, Any]:
        self.num_calls += 1
        rows = [self._row(one, other) for one, other in zip(text, text_pair or [""] * len(text), strict=True)]
        end = max_length if truncation else None
        return {
            "input_ids": [[number for number, _ in row[:end]] for row in rows],
            "token_type_ids": [[kind for _, kind in row[:end]] for row in rows],
        }

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 3 if pair else 2

    def __len__(self) -> int:
        return 30_010

    def convert_ids_to_tokens(self, ids: int) -> str:
        return f"word-{ids}"

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens)

    def _row(self, one: str, other: str) -> list[tuple[int, int]]:
        first = [(zlib.crc32(word.encode()) % 30_000 + 10, 0) for word in one.split()]
        second = [(zlib.crc32(word.encode()) % 30_000 + 10, 1) for word in other.split()]
        return [(FIRST, 0), *first, (BETWEEN, 0), *second]


class MeetingTokenizer(WordTokenizer):
    """Goes on only when two processes have come this far."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __call__(self, *texts: Any, **settings: Any) -> dict[str, Any]:
        (self.folder / str(os.getpid())).touch()
        until = time.monotonic() + 30
        while len(list(self.folder.iterdir())) < 2:
            assert time.monotonic() < until, "the other process never came"
            time.sleep(0.001)
        return super().__call__(*texts, **settings)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("csv")
    parser.add_argument("--meet", type=Path)
    parser.add_argument("--limits", default="")
    given = parser.parse_args()
    config = RunConfig.model_validate({"exp_id": "program", "data": {"raw_data_path": given.csv}})
    tokenizer = MeetingTokenizer(given.meet) if given.meet else WordTokenizer()
    for limit in given.limits.split(",") if given.limits else [None]:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        sys.stdout.write(json.dumps(_attempt(config, tokenizer)) + "\n")


def _attempt(config: RunConfig, tokenizer: WordTokenizer) -> dict[str, str]:
    try:
        dataset = data.encode(data.read(config), config, tokenizer, "words", lambda _: None)
    except UserError as error:
        return {"error": str(error)}
    return {"sha256": hashlib.sha256(dataset.train.tokens.tobytes()).hexdigest()}


if __name__ == "__main__":
    main()
