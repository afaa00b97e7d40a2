"""Scripts: where spaces part the words, and where each character is a word or a syllable."""

from __future__ import annotations

import re
from collections.abc import Sequence

CHINESE = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff"
IDEOGRAPH = re.compile(f"[{CHINESE}{KANA}]")
"""A tokenizer may well make one token of each."""
WITHOUT_SPACES = re.compile(f"[{CHINESE}{KANA}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Chinese, Japanese, Thai, Lao, Burmese and Khmer put no space between words."""
LETTER = re.compile(r"\w")
FEW = 0.2
"""Share of all letters: as many foreign ones stand in many texts."""
LOOKED_AT_ROWS, LOOKED_AT_CHARACTERS = 1000, 200


def has_no_spaces(texts: Sequence[str]) -> bool:
    """Whether the words of these texts cannot be told by the spaces between them."""
    start = _start(texts)
    return len(WITHOUT_SPACES.findall(start)) >= FEW * len(LETTER.findall(start))


def is_chinese(texts: Sequence[str]) -> bool:
    start = _start(texts)
    num_letters, num_kana = len(LETTER.findall(start)), len(re.findall(f"[{KANA}]", start))
    num_chinese = len(re.findall(f"[{CHINESE}]", start))
    return num_chinese > FEW * num_letters and num_kana < FEW * num_chinese


def _start(texts: Sequence[str]) -> str:
    return "".join(text[:LOOKED_AT_CHARACTERS] for text in texts[:LOOKED_AT_ROWS])
