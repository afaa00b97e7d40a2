"""What a base makes of the texts: whether it has ever seen their language.

    facts = familiarity(train, texts, tokenizer, max_len)
    # {"unknown_share": 0.66, "broken_share": 0.72, "tokens_a_character": 0.94, …}
    foreign(facts, texts)
    # "this base has hardly seen the language of the texts (66 % of its tokens are unknown); …"

A tokenizer breaks what it has not been made for into unknown tokens (BERT), bytes (GPT-2, Llama) or single
letters. A Chinese character or a Kana is no such piece, since tokenizers made for Chinese give each a token
of its own. Numbers and punctuation are left out: they are single tokens everywhere. A foreign language in a
familiar alphabet breaks into syllables, and is not noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from loratrack.data.scripts import IDEOGRAPH, is_chinese
from loratrack.data.tokens import Tokens

HARDLY_SEEN = 0.35
"""`broken_share`: measured up to 0.3 in known languages, from 0.39 on in foreign ones (docs/log.md)."""
SMALLEST_VOCABULARY = 1000
"""A smaller one has letters because it was made so."""
LOOKED_AT_ROWS = 20_000
REPLACEMENT = "\ufffd"
"""What a part of a character is decoded to."""


class Vocabulary(Protocol):
    """What is asked of a tokenizer of transformers."""

    def __len__(self) -> int: ...

    @property
    def all_special_ids(self) -> Sequence[int]: ...

    @property
    def unk_token_id(self) -> int | None: ...

    def convert_ids_to_tokens(self, ids: int) -> str: ...

    def convert_tokens_to_string(self, tokens: list[str]) -> str: ...


def familiarity(
    tokens: Tokens, texts: Sequence[str], vocabulary: Vocabulary, max_len: int
) -> dict[str, float]:
    """Shares of all tokens but the special ones; `broken_share` leaves out numbers and punctuation, too."""
    num_rows = min(len(tokens), LOOKED_AT_ROWS)
    ids, lengths = tokens.tokens[: tokens.offsets[num_rows]], tokens.lengths[:num_rows]
    special = [each for each in vocabulary.all_special_ids if each != vocabulary.unk_token_id]
    is_counted = ~np.isin(ids, special)
    counts = dict.fromkeys(("unknown", "byte", "letter", "word", "sign"), 0)
    for token_id, count in enumerate(np.bincount(ids[is_counted]).tolist()):
        if count:
            counts[_kind(token_id, vocabulary)] += count
    num_tokens = max(1, sum(counts.values()))
    broken = counts["unknown"] + counts["byte"]
    if len(vocabulary) >= SMALLEST_VOCABULARY:
        broken += counts["letter"]
    facts = {f"{kind}_share": counts[kind] / num_tokens for kind in ("unknown", "byte", "letter")}
    facts["broken_share"] = broken / max(1, num_tokens - counts["sign"])
    is_whole = lengths < max_len  # a row that was cut has characters without tokens
    characters = sum(len(texts[row]) for row in np.flatnonzero(is_whole).tolist())
    if characters:
        facts["tokens_a_character"] = int(is_counted[np.repeat(is_whole, lengths)].sum()) / characters
    return {name: round(value, 4) for name, value in facts.items()}


def foreign(facts: Mapping[str, float], texts: Sequence[str]) -> str | None:
    """What to say of a base that has hardly seen the language of these texts; None of one that knows it."""
    if facts["broken_share"] < HARDLY_SEEN:
        return None
    pieces = {"unknown": "unknown", "byte": "parts of a character", "letter": "single letters"}
    kind = max(pieces, key=lambda kind: facts[f"{kind}_share"])
    known = "bert-base-chinese" if is_chinese(texts) else "xlm-roberta-base"
    share = round(100 * facts[f"{kind}_share"])
    return (
        f"this base has hardly seen the language of the texts ({share} % of its tokens are {pieces[kind]});"
        f" one that has will do better: model.arch={known}, or a local folder"
    )


def _kind(token_id: int, vocabulary: Vocabulary) -> str:
    if token_id == vocabulary.unk_token_id:
        return "unknown"
    text = vocabulary.convert_tokens_to_string([vocabulary.convert_ids_to_tokens(token_id)])
    text = text.strip().removeprefix("##")  # as BERT marks what goes on with a word
    if REPLACEMENT in text:
        return "byte"
    if not any(letter.isalpha() for letter in text):
        return "sign"
    return "letter" if len(text) == 1 and not IDEOGRAPH.match(text) else "word"
