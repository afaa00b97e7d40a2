"""From bytes to text: UTF-8 and UTF-16 by their rules, GB18030 and Windows-1252 by their statistics."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark starts with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
UTF16_WITHOUT_MARK = re.compile(rb"(?P<little>[^\0]\0[^\0]\0)|(?P<big>\0[^\0]\0[^\0])")
KANA = re.compile("[\u3040-\u30ff]")
ESCAPED = re.compile("[\udc80-\udcff]")
GUESSED = ("gb18030", "cp1252")
"""Encodings that no mark and no rule gives away; a file read so is worth a warning."""


@dataclass(frozen=True)
class Decoded:
    text: str
    encoding: str


class UndecodableError(ValueError):
    """The bytes are no text in an encoding we know; the message says what to do."""


def decode(raw: bytes) -> Decoded:
    """The text of a file and how it was encoded; UndecodableError rather than garbled text."""
    encoding = encoding_of(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UndecodableError(f"line {line}: {error.reason} ({encoding}); save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UndecodableError(f"line {line}: holds a NUL byte, so it is no text file; save it as UTF-8 text")
    return Decoded(text, encoding)


def encoding_of(raw: bytes) -> str:
    """By its mark, by UTF-8's own rules, or by how often which bytes occur; UndecodableError if by none."""
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            return encoding
    unmarked = UTF16_WITHOUT_MARK.match(raw)
    if unmarked:
        return "utf-16-le" if unmarked["little"] else "utf-16-be"

    if _decodes(raw, "utf-8"):
        return "utf-8"
    # UTF-8 with a few bad bytes is UTF-8 still: to read it as another encoding would garble all of it.
    escaped = raw.decode("utf-8", errors="surrogateescape")
    num_bad = len(ESCAPED.findall(escaped))
    if sum(not character.isascii() for character in escaped) > 2 * num_bad:
        return "utf-8"

    high_share = sum(byte > 127 for byte in raw) / len(raw)
    if high_share >= 0.05 and _decodes(raw, "gb18030"):
        # Chinese text lies almost wholly in GB2312; Western, Big5 or Japanese bytes read as GB18030 do not.
        foreign = "".join(character for character in raw.decode("gb18030") if not character.isascii())
        if len(KANA.sub("", foreign).encode("gb2312", "ignore")) / 2 >= 0.7 * len(foreign):
            return "gb18030"
    if high_share < 0.2 and _decodes(raw, "cp1252"):
        return "cp1252"
    raise UndecodableError("is neither UTF-8, UTF-16, GBK/GB18030 nor Windows-1252; save it as UTF-8")


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
