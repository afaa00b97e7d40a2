"""Fonts for pictures whose labels are in any language, Chinese first of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from loratrack.errors import printable, quoted

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
OUR_FONT = "LoRATrack CJK"
OUR_FILE = Path(__file__).with_name("loratrack_cjk.ttf")
"""All characters of GBK, Big5 and JIS X 0208 that Latin fonts lack; where it comes from stands beside it."""
NO_LETTER = "□"


def families() -> list[str]:
    """Latin, the installed CJK fonts, ours: matplotlib takes each letter from the first font that has it.

    Only this process learns of ours: the list of fonts that matplotlib keeps on disk stays as it is.
    """
    installed = {font.name for font in font_manager.fontManager.ttflist}
    if OUR_FONT not in installed:
        font_manager.fontManager.addfont(OUR_FILE)
        # It has one weight: matplotlib would say so in a warning for each bold title.
        regular = font_manager.fontManager.ttflist[-1]
        font_manager.fontManager.ttflist.append(replace(regular, weight=700))
    return [LATIN_FONT, *[name for name in CJK_FONTS if name in installed][:MAX_CJK_FONTS], OUR_FONT]


@cache
def characters(names: tuple[str, ...]) -> frozenset[str]:
    """The characters that one of these fonts can draw."""
    files = [font_manager.findfont(name) for name in names]
    return frozenset(map(chr, set().union(*(FT2Font(file).get_charmap() for file in files))))


def drawable(text: str) -> str:
    """`text` in one line, in which a box stands for each character that no font can draw."""
    known = characters(tuple(families()))
    return "".join(letter if letter in known else NO_LETTER for letter in printable(text))


def notice(texts: Iterable[str]) -> str | None:
    """Which characters of the texts are drawn as boxes, and what helps; None where all can be drawn."""
    unknown = sorted(set().union(*map(printable, texts)) - characters(tuple(families())))
    if not unknown:
        return None
    return (
        f"no font here has {quoted(''.join(unknown))}, drawn as {NO_LETTER}; for Korean and rare Chinese"
        f" characters install fonts-noto-cjk and delete matplotlib's list of fonts in"
        f" {matplotlib.get_cachedir()}"
    )
