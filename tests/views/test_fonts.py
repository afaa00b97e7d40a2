"""Chinese, Japanese and other letters in pictures, on machines with and without a font for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.image import imread

from loratrack.views import curves, fonts

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "loratrack"


def double_bytes(encoding: str) -> set[str]:
    """All characters of a code of two bytes, but for private ones and controls."""
    codes = (bytes([first, second]) for first in range(0x81, 0xFF) for second in range(0x40, 0xFF))
    letters = {code.decode(encoding, "ignore") for code in codes}
    return {letter for letter in letters if len(letter) == 1 and letter.isprintable()}


@pytest.mark.parametrize(
    ("encoding", "least"), [("gb2312", 7_000), ("gbk", 21_000), ("big5", 13_000), ("shift_jis", 6_000)]
)
def test_every_character_of_the_common_codes_can_be_drawn(
    encoding: str, least: int, no_cjk_fonts: None
) -> None:
    letters = "".join(sorted(double_bytes(encoding)))
    assert len(letters) > least
    assert fonts.drawable(letters) == letters
    assert fonts.notice([letters]) is None


def test_a_picture_shows_chinese_labels_without_an_installed_font(tmp_path: Path, no_cjk_fonts: None) -> None:
    """As letters: boxes would make two of the pictures alike, and escapes would make them wide.

    Nothing is warned of: warnings are errors.
    """
    right = np.array([0, 1])
    pictures = []
    for labels in (("高风险", "低风险"), ("已采纳", "未采纳"), ("abcdef", "fedcba")):
        assert curves.draw(tmp_path, {}, {"标签": (labels, right, right)}, best_epoch=None) is None
        pictures.append(imread(tmp_path / "confusion_标签.png"))
    first, second, latin = pictures
    assert first.shape == second.shape
    assert (first != second).sum() > 500
    assert abs(first.shape[1] - latin.shape[1]) < 30


def test_a_bold_title_in_chinese_is_drawn_without_a_warning(
    tmp_path: Path, no_cjk_fonts: None, caplog: pytest.LogCaptureFixture
) -> None:
    curves.draw(
        tmp_path,
        {1: {"accuracy": 1.0, "f1": 1.0}},
        {"风险": (["高"], *np.zeros((2, 1), np.int64))},
        best_epoch=1,
    )
    assert (tmp_path / "风险.png").exists()
    assert caplog.messages == []


def test_an_installed_font_comes_before_ours(no_cjk_fonts: None) -> None:
    assert fonts.families() == [fonts.LATIN_FONT, fonts.OUR_FONT]
    [ours, *_] = [font for font in font_manager.fontManager.ttflist if font.name == fonts.OUR_FONT]
    font_manager.fontManager.ttflist.append(replace(ours, name="Noto Sans CJK SC"))
    assert fonts.families() == [fonts.LATIN_FONT, "Noto Sans CJK SC", fonts.OUR_FONT]


def test_matplotlibs_list_of_fonts_on_disk_stays_as_it_is(tmp_path: Path) -> None:
    draw = "from loratrack.views import fonts; assert fonts.drawable('高') == '高'"
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path / "config")}
    lists = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", draw], cwd=tmp_path, env=environment, check=True)
        [file] = (tmp_path / "config").glob("fontlist-*.json")
        lists.append((file.read_bytes(), file.stat().st_mtime_ns))
    assert lists[0] == lists[1]
    names = {font["name"] for font in json.loads(lists[0][0])["ttflist"]}
    assert fonts.LATIN_FONT in names
    assert fonts.OUR_FONT not in names


def test_letters_that_no_font_has_are_boxes_and_one_notice(tmp_path: Path, no_cjk_fonts: None) -> None:
    assert fonts.drawable("高 한 high\n\u202e") == "高 □ high  "
    right = np.array([0, 1])
    notice = curves.draw(tmp_path, {}, {"한": (["글한", "高"], right, right)}, best_epoch=None)
    assert notice is not None
    start, _, end = notice.partition(" list of fonts in ")
    assert start == (
        "no font here has '글한', drawn as □; for Korean and rare Chinese characters install fonts-noto-cjk"
        " and delete matplotlib's"
    )
    assert Path(end).is_dir()


def test_what_lies_beside_the_modules_is_packaged() -> None:
    """The font and its licence, and whatever else is no Python."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]["loratrack"]
    packaged = {
        PACKAGE / file for pattern in patterns for file in glob(pattern, root_dir=PACKAGE, recursive=True)
    }
    others = {
        file
        for file in PACKAGE.rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
    }
    assert fonts.OUR_FILE in others
    assert fonts.OUR_FILE.with_name("loratrack_cjk_LICENSE.txt") in others
    assert others <= packaged
