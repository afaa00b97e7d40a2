"""Fonts for pictures whose labels are in any language, Chinese first of all."""

from __future__ import annotations

import unicodedata
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

LATIN_FONT = "DejaVu Sans"
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Heiti SC",
    "Hiragino Sans GB",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    "Noto Serif CJK SC",
    "Noto Serif CJK JP",
)
MAX_CJK_FONTS = 2


def families() -> list[str]:
    """Latin first, then the installed CJK fonts; matplotlib takes each letter from the first that has it."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [LATIN_FONT, *[name for name in CJK_FONTS if name in installed][:MAX_CJK_FONTS]]


@cache
def characters(names: tuple[str, ...]) -> frozenset[int]:
    """The characters that one of these fonts can draw."""
    files = [font_manager.findfont(name) for name in names]
    return frozenset().union(*(FT2Font(file).get_charmap() for file in files))


def drawable(text: str) -> str:
    """`text`, in which characters that no installed font can draw are written as escapes."""
    with_glyph = characters(tuple(families()))
    return "".join(
        character
        if ord(character) in with_glyph and not unicodedata.category(character).startswith("C")
        else character.encode("unicode_escape").decode()
        for character in text
    )
