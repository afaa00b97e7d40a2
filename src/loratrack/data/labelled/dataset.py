"""From a corpus to tokens ready for training, through the token cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from loratrack.config import RunConfig
from loratrack.data import cache
from loratrack.data.labelled.corpus import VALIDATION, Corpus, Examples
from loratrack.data.labelled.labels import LabelMap
from loratrack.data.tokens import Array, Tokenizer, Tokens, encode_texts, full_lengths


@dataclass(frozen=True)
class Encoded(Tokens):
    """Labelled tokens; the flat arrays are memory-mapped."""

    labels: Array
    """int64, (rows, tasks): local ids."""


@dataclass(frozen=True)
class Dataset:
    train: Encoded
    validation: Encoded
    test: Encoded | None
    label_map: LabelMap
    report: dict[str, Any]
    """`data_report.json`."""
    sha256: str
    """Of the data files' bytes."""


def encode(
    corpus: Corpus,
    config: RunConfig,
    tokenizer: Tokenizer,
    tokenizer_sha256: str,
    notice: Callable[[str], None],
) -> Dataset:
    """The corpus as tokens, from the cache when it holds them. The corpus' warnings go to `notice`."""
    for warning in corpus.report["warnings"]:
        notice(warning)
    stored = cache.fetch(
        cache_settings(corpus, config, tokenizer_sha256),
        lambda: _build(corpus.parts, tokenizer, config.data.max_len),
        notice,
    )
    parts = {name: _encoded(stored.arrays, name, part.labels) for name, part in corpus.parts.items()}
    report = {**corpus.report, "tokens": stored.facts}
    test = parts.get("test")
    return Dataset(parts["train"], parts["validation"], test, corpus.label_map, report, corpus.sha256)


def cache_settings(corpus: Corpus, config: RunConfig, tokenizer_sha256: str) -> dict[str, Any]:
    """Everything the tokens depend on, and nothing else: paths and names of files change nothing."""
    data = config.data
    is_split = VALIDATION not in corpus.files_sha256
    return {
        "files": corpus.files_sha256,
        "tokenizer": tokenizer_sha256,
        "tokenizers": version("tokenizers"),
        "max_len": data.max_len,
        "text_columns": config.text_columns,
        "label_columns": config.label_columns,
        "unknown_label": data.unknown_label,
        "data_process_version": data.data_process_version,
        "task_type": config.task_type,
        "label_map": corpus.label_map.sha256,
        "split": {"share": data.validation_share, "seed": config.train.seed} if is_split else None,
    }


def _build(parts: Mapping[str, Examples], tokenizer: Tokenizer, max_len: int) -> cache.Stored:
    arrays: dict[str, Array] = {}
    facts: dict[str, Any] = {}
    for name, part in parts.items():
        tokens = encode_texts(part.columns, tokenizer, max_len)
        arrays |= {f"{name}.tokens": tokens.tokens, f"{name}.offsets": tokens.offsets}
        if tokens.token_types is not None:
            arrays[f"{name}.token_types"] = tokens.token_types
        facts[name] = _length_facts(full_lengths(tokens, part.columns, tokenizer, max_len), max_len)
    return cache.Stored(arrays, facts)


def _length_facts(lengths: Array, max_len: int) -> dict[str, float]:
    """Lengths before the cut: they tell which max_len would do."""
    cut = int((lengths > max_len).sum())
    shares = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
    return {
        "mean": round(float(lengths.mean()), 2),
        **{name: round(float(np.percentile(lengths, share)), 2) for name, share in shares.items()},
        "max": int(lengths.max()),
        "truncated": cut,
        "truncated_share": cut / len(lengths),
    }


def _encoded(arrays: Mapping[str, Array], name: str, labels: Array) -> Encoded:
    types = arrays.get(f"{name}.token_types")
    return Encoded(arrays[f"{name}.tokens"], arrays[f"{name}.offsets"], types, labels)
