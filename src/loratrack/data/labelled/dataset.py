"""From a corpus to tokens ready for training, through the token cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol

import numpy as np

from loratrack.config import RunConfig
from loratrack.data import cache
from loratrack.data.familiarity import Vocabulary, familiarity, foreign
from loratrack.data.labelled.corpus import Corpus, Examples
from loratrack.data.labelled.labels import LabelMap
from loratrack.data.labelled.leaks import leaks, rows_but
from loratrack.data.labelled.report import Report
from loratrack.data.tokens import Array, Tokenizer, Tokens, encode_texts, full_lengths
from loratrack.errors import DataError, counted, quoted

NOUNS = {"train": "training", "validation": "validation"}


class TokenizerWithVocabulary(Tokenizer, Vocabulary, Protocol):
    """What is used of a tokenizer of transformers."""


@dataclass(frozen=True)
class Encoded(Tokens):
    """Labelled tokens; the flat arrays are memory-mapped."""

    labels: Array
    """(rows, columns): see LabelMap.columns."""

    def only(self, rows: Array) -> Encoded:
        is_kept = np.zeros(len(self), dtype=bool)
        is_kept[rows] = True
        of_tokens = np.repeat(is_kept, self.lengths)
        types = None if self.token_types is None else self.token_types[of_tokens]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths[rows], dtype=np.int64)])
        return Encoded(self.tokens[of_tokens], offsets, types, self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    train: Encoded
    validation: Encoded
    test: Encoded | None
    label_map: LabelMap
    report: Report
    """`data_report.json`."""
    sha256: str
    """Of the data files' bytes."""
    validation_sha256: str = ""
    """Of the validation rows, texts and labels: scores on the same rows can be compared."""
    kept: Mapping[str, Array] = field(default_factory=dict)
    """The rows of the corpus that are here, for each part that has lost some."""


def encode(
    corpus: Corpus,
    config: RunConfig,
    tokenizer: TokenizerWithVocabulary,
    tokenizer_facts: object,
    notice: Callable[[str], None],
) -> Dataset:
    """The corpus as tokens, from the cache when it holds them. What is worth a warning goes to `notice`.

    `tokenizer_facts`, JSON, tell one tokenizer of this class from another.
    """
    for warning in corpus.report["warnings"]:
        notice(warning)
    stored = cache.fetch(
        cache_settings(corpus, config, tokenizer, tokenizer_facts),
        lambda: _build(corpus.parts, tokenizer, config.data.max_len),
        notice,
    )
    for name, facts in stored.facts.items():
        if facts["truncated"]:
            cut, max_len = counted(facts["truncated"], "text"), config.data.max_len
            notice(
                f"{name}: {cut} of {len(corpus.parts[name]):,} cut to data.max_len ({max_len} tokens), the"
                f" longest has {facts['max']:,}"
            )
    arrays, parts = stored.arrays, dict[str, Encoded]()
    for name, part in corpus.parts.items():
        types = arrays.get(f"{name}.token_types")
        parts[name] = Encoded(arrays[f"{name}.tokens"], arrays[f"{name}.offsets"], types, part.labels)
    same, kept = _without_leaks(parts, corpus, config, tokenizer.unk_token_id, notice)
    parts |= {name: parts[name].only(rows) for name, rows in kept.items()}
    whole, corpus = corpus, corpus.only(kept)
    for warning in corpus.report["warnings"]:
        if warning not in whole.report["warnings"]:
            notice(warning)
    texts = corpus.train.joined
    vocabulary = familiarity(parts["train"], texts, tokenizer, config.data.max_len)
    if (warning := foreign(vocabulary, texts)) is not None:
        notice(warning)
    return Dataset(
        train=parts["train"],
        validation=parts["validation"],
        test=parts.get("test"),
        label_map=corpus.label_map,
        report={
            **corpus.report,
            "tokens": stored.facts,
            "vocabulary": vocabulary,
            "same_tokens": same,
        },
        sha256=corpus.sha256,
        validation_sha256=_rows_sha256(corpus),
        kept=kept,
    )


def _without_leaks(
    parts: Mapping[str, Tokens],
    corpus: Corpus,
    config: RunConfig,
    unknown: int | None,
    notice: Callable[[str], None],
) -> tuple[list[dict[str, object]], dict[str, Array]]:
    """What the report says of rows that are one text to the base, and the rows to keep of parts with such."""
    found = leaks(parts, corpus.parts, unknown, config.data.max_len)
    are_both_files = config.data.validation_path is not None
    same, left_out = list[dict[str, object]](), dict[str, list[int]]()
    for (name, other), pairs in found.items():
        row, held_out = pairs[0]
        stays = name == "validation" and are_both_files
        if not stays:
            left_out.setdefault(name, []).extend(row for row, _ in pairs)
        consequence = "both files keep them" if stays else f"{NOUNS[name]} leaves them out"
        notice(
            f"{counted(len(pairs), f'{NOUNS[name]} row')} with the tokens of a {other} row, so the same text"
            f" to this base: {quoted(corpus.parts[name].joined[row])} and"
            f" {quoted(corpus.parts[other].joined[held_out])}; {consequence}"
        )
        same.append({"rows_of": name, "also_in": other, "rows": len(pairs), "left_out": not stays})
    kept = {name: rows_but(len(parts[name]), np.array(rows)) for name, rows in left_out.items()}
    for name, rows in kept.items():
        if not len(rows):
            others = "held-out" if name == "train" else "test"
            raise DataError(
                f"{config.exp_id}: no {NOUNS[name]} row is left: each has the tokens of a {others} row, so"
                " this base cannot tell them apart"
            )
    return same, kept


def _rows_sha256(corpus: Corpus) -> str:
    """The same in whatever order the config names the labels of a task."""
    part, label_map = corpus.validation, corpus.label_map
    labels = part.labels.copy()
    for task, by_name in zip(label_map.tasks, label_map.by_name.tasks, strict=True):
        columns = label_map.columns[task.name]
        if task.is_multi_label:
            numbers = [task.local_ids[label] for label in by_name.labels]
            labels[:, columns] = part.labels[:, columns][:, numbers]
        else:
            numbers = [by_name.local_ids[label] for label in task.labels]
            labels[:, columns] = np.array(numbers)[part.labels[:, columns]]
    facts = (part.texts_sha256, label_map.by_name.sha256, hashlib.sha256(labels.tobytes()).hexdigest())
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()


def cache_settings(
    corpus: Corpus, config: RunConfig, tokenizer: Tokenizer, tokenizer_facts: object
) -> dict[str, object]:
    """Everything the tokens depend on: paths and names of files change nothing.

    An entry's rows are paired with the labels of `corpus`, so the key holds the texts of each part in their
    order: another numpy, or a later version of ours, may split the same files in another way.
    """
    data, kind = config.data, type(tokenizer)
    return {
        "files": corpus.files_sha256,
        "texts": {name: part.texts_sha256 for name, part in corpus.parts.items()},
        "tokenizer": [f"{kind.__module__}.{kind.__qualname__}", tokenizer_facts],
        "packages": {name: version(name) for name in ("tokenizers", "transformers")},
        "max_len": data.max_len,
        "text_columns": config.text_columns,
        "label_columns": config.label_columns,
        "unknown_label": data.unknown_label,
        "empty_text": data.empty_text,
        "data_process_version": data.data_process_version,
        "task_type": config.task_type,
        "label_map": corpus.label_map.sha256,
    }


def _build(parts: Mapping[str, Examples], tokenizer: Tokenizer, max_len: int) -> cache.Stored:
    arrays: dict[str, Array] = {}
    facts: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        tokens = encode_texts(part.columns, tokenizer, max_len)
        arrays |= {f"{name}.tokens": tokens.tokens, f"{name}.offsets": tokens.offsets}
        if tokens.token_types is not None:
            arrays[f"{name}.token_types"] = tokens.token_types
        # Lengths before the cut: they tell which max_len would do.
        lengths = full_lengths(tokens, part.columns, tokenizer, max_len)
        num_cut = int((lengths > max_len).sum())
        facts[name] = {"mean": round(float(lengths.mean()), 2)}
        for key, percent in {"median": 50, "p90": 90, "p95": 95, "p99": 99}.items():
            facts[name][key] = round(float(np.percentile(lengths, percent)), 2)
        facts[name] |= {
            "max": int(lengths.max()),
            "truncated": num_cut,
            "truncated_share": num_cut / len(lengths),
        }
    return cache.Stored(arrays, facts)
