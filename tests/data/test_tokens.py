from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from loratrack.data import Tokenizer, encode_texts, prepare_texts
from loratrack.data.tokens import BATCH_SIZE, full_lengths

WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12).map(" ".join)


class Letters:
    """One token a letter, none special; it has no separator."""

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
    ) -> dict[str, Any]:
        end = max_length if truncation else None
        return {"input_ids": [[ord(letter) for letter in one][:end] for one in text]}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 0


def rows_of(tokens: Any) -> list[list[int]]:
    return [
        tokens.tokens[start:end].tolist()
        for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    ]


@given(st.lists(WORDS, max_size=20), st.integers(4, 12))
def test_offsets_are_well_formed(texts: list[str], max_len: int) -> None:
    tokens = encode_texts([texts], Letters(), max_len)
    assert len(tokens) == len(texts)
    assert tokens.offsets[0] == 0
    assert tokens.offsets[-1] == len(tokens.tokens)
    assert (np.diff(tokens.offsets) > 0).all()
    assert (np.diff(tokens.offsets) <= max_len).all()
    assert (tokens.tokens.dtype, tokens.offsets.dtype) == (np.dtype(np.int32), np.dtype(np.int64))
    assert rows_of(tokens) == [[ord(letter) for letter in text][:max_len] for text in texts]


@pytest.mark.parametrize("middle", ["", " " * 5000, "x" * 5000, "很" * 5000])
def test_a_very_long_text_is_cut_before_all_of_it_is_tokenised(tokenizer: Tokenizer, middle: str) -> None:
    num_characters = 0

    class Counting:
        def __call__(
            self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
        ) -> Any:
            nonlocal num_characters
            num_characters += sum(map(len, [*text, *(text_pair or [])]))
            return tokenizer(text, text_pair, truncation=truncation, max_length=max_length)

        def num_special_tokens_to_add(self, pair: bool = False) -> int:
            return tokenizer.num_special_tokens_to_add(pair=pair)

    text = f"a b{middle} c, d e f g h " + "a long end " * 500_000
    start = text[:200_000]
    for columns in ([[text]], [["a b", text], [text, "c"]]):
        short = [[each[:200_000] for each in column] for column in columns]
        whole = tokenizer(*short, truncation=True, max_length=16)["input_ids"]
        assert rows_of(encode_texts(columns, Counting(), 16)) == whole
    assert num_characters < len(start)


def test_rows_do_not_depend_on_their_batch(tokenizer: Tokenizer) -> None:
    texts = [f"text number {number}" for number in range(BATCH_SIZE + 3)]
    together = rows_of(encode_texts([texts], tokenizer, 16))
    assert together[BATCH_SIZE - 1 : BATCH_SIZE + 1] == [
        rows_of(encode_texts([[text]], tokenizer, 16))[0] for text in texts[BATCH_SIZE - 1 : BATCH_SIZE + 1]
    ]


def test_one_column_has_no_token_types(tokenizer: Tokenizer) -> None:
    assert encode_texts([["a b"]], tokenizer, 16).token_types is None


def test_two_columns_of_a_tokenizer_without_pairs_are_joined() -> None:
    """As GPT-2's: it would put nothing between the two."""
    rows = rows_of(encode_texts([["refund the money", "refund the mon"], ["now", "eynow"]], gpt2(), 99))
    assert rows[0] != rows[1]
    assert rows[0] == rows_of(encode_texts([["refund the money \n now"]], gpt2(), 99))[0]


def gpt2() -> Tokenizer:
    """Bytes, and no special token anywhere."""
    alphabet = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    bytes_only = Backend(models.BPE(vocab=alphabet, merges=[]))
    bytes_only.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer: Tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only)
    return tokenizer


def test_two_columns_are_a_pair(tokenizer: Tokenizer) -> None:
    tokens = encode_texts([["a b", ""], ["c", "d"]], tokenizer, 16)
    assert tokens.token_types is not None
    assert tokens.token_types.dtype == np.uint8
    assert tokens.token_types.tolist() == [*(0, 0, 0, 0, 1), *(0, 0, 1)]


def test_more_columns_are_joined_by_the_separator() -> None:
    assert prepare_texts([["a", "x"]], "[SEP]") == (["a", "x"], None)
    assert prepare_texts([["a"], ["b"]], "[SEP]") == (["a"], ["b"])
    assert prepare_texts([["a"], ["b"], ["c"]], "[SEP]") == (["a [SEP] b [SEP] c"], None)


def test_a_tokenizer_without_a_separator_gets_lines() -> None:
    (row,) = rows_of(encode_texts([["a"], ["b"], ["c"]], Letters(), 16))
    assert "".join(map(chr, row)) == "a \n b \n c"


@given(st.lists(WORDS, min_size=1, max_size=20), st.integers(4, 12))
def test_full_lengths_are_those_before_the_cut(texts: list[str], max_len: int) -> None:
    tokens = encode_texts([texts], Letters(), max_len)
    assert full_lengths(tokens, [texts], Letters(), max_len).tolist() == [len(text) for text in texts]


@pytest.fixture(scope="module")
def fast_tokenizer() -> Tokenizer:
    """A real fast tokenizer of transformers, as small as can be."""
    from tokenizers import Tokenizer as Fast
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    fast = Fast(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = Whitespace()
    fast.post_processor = BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made: Tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=8,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    return made


def test_a_real_fast_tokenizer_fits(
    fast_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = ["a b", "a b c d e f g h a b c"]
    alone = encode_texts([texts], fast_tokenizer, 6)
    assert rows_of(alone) == [[1, 3, 4, 2], [1, 3, 4, 5, 6, 2]]
    assert full_lengths(alone, [texts], fast_tokenizer, 6).tolist() == [4, 13]
    pair = encode_texts([["a b", "a"], ["c", "d e f g h"]], fast_tokenizer, 6)
    assert rows_of(pair) == [[1, 3, 4, 2, 5, 2], [1, 3, 2, 6, 7, 2]]
    assert pair.token_types is not None
    assert pair.token_types.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    joined = encode_texts([["a"], ["b"], ["c"]], fast_tokenizer, 16)
    assert rows_of(joined) == [[1, 3, 2, 4, 2, 5, 2]]
    assert caplog.text + "".join(capfd.readouterr()) == ""
