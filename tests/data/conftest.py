"""Configs over small files, a cache of its own for each test, and a tokenizer of a few lines."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratrack.config import RunConfig

PROGRAM = Path(__file__).with_name("encode_program.py")
WordTokenizer = runpy.run_path(str(PROGRAM))["WordTokenizer"]

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def tokenizer() -> Any:
    return WordTokenizer()


@pytest.fixture
def program() -> Path:
    return PROGRAM


@pytest.fixture
def config(tmp_path: Path) -> MakeConfig:
    """config(content, **data settings): the content is written as the raw data, as `name`."""

    def make(
        content: str | bytes,
        *,
        name: str = "raw.csv",
        task_type: str = "single_cls",
        seed: int = 42,
        **data: Any,
    ) -> RunConfig:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        settings = {"exp_id": "exp", "task_type": task_type, "train": {"seed": seed}}
        return RunConfig.model_validate({**settings, "data": {"raw_data_path": str(file), **data}})

    return make


@pytest.fixture
def rows() -> Callable[[int], str]:
    """A CSV with so many different texts under two labels."""

    def make(count: int) -> str:
        lines = [f"text number {number},{'yes' if number % 3 else 'no'}" for number in range(count)]
        return "\n".join(["text,label", *lines, ""])

    return make
