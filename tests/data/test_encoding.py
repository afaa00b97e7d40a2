from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratrack.data.encoding import UndecodableError, decode

CHINESE = "text,label\n味道很好，送餐快,好评\n没有送水没有送水,差评\n"
FRENCH = "text,label\nle café est très bon,pos\nça ne marche pas à l’hôtel,neg\n"
GERMAN = "text,label\nschön und günstig,gut\n" + "nichts besonderes hier,schlecht\n" * 20


@pytest.mark.parametrize(
    ("text", "written_as", "read_as"),
    [
        (CHINESE, "utf-8", "utf-8"),
        (CHINESE, "utf-8-sig", "utf-8-sig"),
        (CHINESE, "gbk", "gb18030"),
        (CHINESE + "龘㐀𠀀,生僻\n", "gb18030", "gb18030"),
        (CHINESE, "utf-16", "utf-16"),
        (CHINESE, "utf-16-le", "utf-16-le"),
        (CHINESE, "utf-16-be", "utf-16-be"),
        (CHINESE, "utf-32", "utf-32"),
        (FRENCH, "cp1252", "cp1252"),
        (GERMAN, "latin-1", "cp1252"),
        (
            "text,label\nsave ££ today with this offer,spam\nsee you at the usual place,ham\n",
            "cp1252",
            "cp1252",
        ),
        (FRENCH, "utf-8", "utf-8"),
        ("text,label\nplain,a\n", "ascii", "utf-8"),
    ],
)
def test_the_encoding_is_found(text: str, written_as: str, read_as: str) -> None:
    decoded = decode(text.encode(written_as))
    assert (decoded.text, decoded.encoding) == (text, read_as)


def test_a_mark_of_utf16_is_not_taken_for_utf32() -> None:
    assert decode("\ufeffa,b\n".encode("utf-16-be")).text == "a,b\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("очень хороший фильм,pos\nплохо,neg\n", "cp1251"),
        ("очень хороший фильм,pos\nплохо,neg\n", "koi8-r"),
        ("這個產品很好用,正面\n非常失望不會再買了,負面\n", "big5"),
        ("とても良い映画です,良\nつまらない,悪\n", "shift_jis"),
        ("とても良い映画です,良\nつまらない,悪\n", "euc-jp"),
    ],
)
def test_an_encoding_we_do_not_know_is_refused_rather_than_garbled(text: str, encoding: str) -> None:
    with pytest.raises(UndecodableError, match="is neither UTF-8, UTF-16, GBK/GB18030 nor Windows-1252"):
        decode(f"text,label\n{text}".encode(encoding))


def test_a_bad_byte_in_utf8_is_reported_with_its_line() -> None:
    raw = FRENCH.encode() + b"caf\xe9,pos\n"
    with pytest.raises(
        UndecodableError, match=r"^line 4: invalid continuation byte \(utf-8\); save the file as"
    ):
        decode(raw)


def test_a_file_that_is_no_text_is_reported() -> None:
    with pytest.raises(UndecodableError, match=r"^line 2: holds a NUL byte, so it is no text file"):
        decode(b"text,label\nab\0cd,x\n")


@given(st.text().filter(lambda text: "\0" not in text and not text.startswith("\ufeff")))
def test_utf8_is_read_as_it_was_written(text: str) -> None:
    assert decode(text.encode()).text == text


@given(st.binary())
def test_any_bytes_are_text_or_refused(raw: bytes) -> None:
    with suppress(UndecodableError):
        assert "\0" not in decode(raw).text
