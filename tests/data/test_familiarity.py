"""What a base makes of the texts, by tokenizers made here like those of BERT, GPT-2, Llama and T5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from loratrack.data.familiarity import familiarity, foreign
from loratrack.data.scripts import has_no_spaces, is_chinese
from loratrack.data.tokens import encode_texts

ENGLISH = [
    "will it rain tomorrow in the city",
    "I want to open an account at the bank",
    "why has my order not arrived yet",
    "please send me the number of the order again",
]
CHINESE = ["明天城里会下雨吗", "我想在银行开一个账户", "为什么我的订单还没有到", "请再把订单号发给我一次"]
RUSSIAN = ["Завтра будет дождь, возьмите зонт", "Я хочу открыть счёт в банке"]
JAPANESE = ["明日は雨が降りますか", "銀行口座を開設したいのですが"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
FILLERS = [f"filler{number}" for number in range(1000)]
"""They make a vocabulary of the usual size."""


def wordpiece(texts: list[str]) -> PreTrainedTokenizerFast:
    """As BERT's: each Chinese character is a word."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return trained(made, texts, trainers.WordPieceTrainer(special_tokens=["[UNK]"]), "[UNK]")


def byte_level(texts: list[str]) -> PreTrainedTokenizerFast:
    """As GPT-2's: nothing is unknown."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return trained(made, texts, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def byte_fallback(texts: list[str]) -> PreTrainedTokenizerFast:
    """As Llama's: what is no token is spelled in bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return trained(made, texts, trainers.BpeTrainer(special_tokens=["<unk>", *BYTES]), "<unk>")


def unigram(texts: list[str]) -> PreTrainedTokenizerFast:
    """As T5's: a stretch of unknown characters is one unknown token."""
    words = {f"▁{word}" for text in texts for word in text.split()}
    letters = {"▁", *"".join(texts)}
    pieces = [("<unk>", 0.0), *((word, -1.0) for word in sorted(words)), *((each, -9.0) for each in letters)]
    made = Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_tokens(FILLERS)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def trained(made: Any, texts: list[str], trainer: Any, unknown: str | None = None) -> PreTrainedTokenizerFast:
    trainer.show_progress = False
    made.train_from_iterator(texts * 3, trainer)
    made.add_tokens(FILLERS)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=unknown)


Make = Callable[[list[str]], PreTrainedTokenizerFast]
KINDS: list[Make] = [wordpiece, byte_level, byte_fallback, unigram]


def facts_of(tokenizer: Any, texts: list[str], max_len: int = 100) -> dict[str, float]:
    return familiarity(encode_texts([texts], tokenizer, max_len), texts, tokenizer, max_len)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("texts", [ENGLISH, CHINESE, RUSSIAN], ids=["english", "chinese", "russian"])
def test_the_language_that_a_tokenizer_was_made_for_is_known(make: Make, texts: list[str]) -> None:
    assert foreign(facts_of(make(texts), texts), texts) is None


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize(
    ("made_for", "texts"),
    [(ENGLISH, CHINESE), (ENGLISH, RUSSIAN), (CHINESE, RUSSIAN), (CHINESE, ENGLISH)],
    ids=["chinese in english", "russian in english", "russian in chinese", "english in chinese"],
)
def test_another_script_is_foreign(make: Make, made_for: list[str], texts: list[str]) -> None:
    assert foreign(facts_of(make(made_for), texts), texts) is not None


def test_the_shares_are_counted_by_hand() -> None:
    """`rain` and `tomorrow` are known, 明 and 天 not; numbers and the mark count among all tokens alone."""
    tokenizer = wordpiece(["rain tomorrow 1 2 !"])
    texts = ["rain 明天 1 2 !", "tomorrow"]
    assert facts_of(tokenizer, texts) == {
        "unknown_share": round(2 / 7, 4),
        "byte_share": 0,
        "letter_share": 0,
        "broken_share": 0.5,
        "tokens_a_character": round(7 / 21, 4),
    }
    cut = facts_of(tokenizer, texts, max_len=4)
    assert cut["unknown_share"] == round(2 / 5, 4)
    assert cut["tokens_a_character"] == round(1 / 8, 4)  # of the row that was not cut


@pytest.mark.parametrize(
    ("make", "made_for", "texts", "broken", "known"),
    [
        (wordpiece, ENGLISH, CHINESE, "unknown", "bert-base-chinese"),
        (byte_level, ENGLISH, RUSSIAN, "parts of a character", "xlm-roberta-base"),
        (byte_fallback, ENGLISH, CHINESE, "parts of a character", "bert-base-chinese"),
        (unigram, ENGLISH, JAPANESE, "unknown", "xlm-roberta-base"),
    ],
)
def test_the_message_says_what_is_wrong_and_names_a_base(
    make: Make, made_for: list[str], texts: list[str], broken: str, known: str
) -> None:
    facts = facts_of(make(made_for), texts)
    share = round(100 * max(facts["unknown_share"], facts["byte_share"]))
    assert foreign(facts, texts) == (
        f"this base has hardly seen the language of the texts ({share} % of its tokens are {broken}); one"
        f" that has will do better: model.arch={known}, or a local folder"
    )


def test_a_vocabulary_of_letters_was_made_so() -> None:
    vocabulary = {letter: number for number, letter in enumerate("?abcdeinortw")}
    letters = Tokenizer(models.WordLevel(vocabulary, "?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?")
    facts = facts_of(tokenizer, ["rain in town"])
    assert facts["letter_share"] > 0.5
    assert foreign(facts, ["rain in town"]) is None


def test_the_built_in_base_knows_english_but_neither_chinese_nor_russian() -> None:
    from loratrack.bases import base

    tokenizer = base.load_tokenizer(base.resolve("minilm", trust=False))
    assert foreign(facts_of(tokenizer, ENGLISH), ENGLISH) is None
    assert facts_of(tokenizer, CHINESE)["unknown_share"] > 0.5
    for texts, broken in ((CHINESE, "tokens are unknown"), (RUSSIAN, "tokens are single letters")):
        said = foreign(facts_of(tokenizer, texts), texts)
        assert said is not None
        assert broken in said


@pytest.mark.parametrize(
    ("texts", "expected"), [(CHINESE, True), (JAPANESE, False), (ENGLISH, False), ([], False)]
)
def test_chinese_is_told_from_japanese(texts: list[str], expected: bool) -> None:
    assert is_chinese(texts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("will it rain tomorrow", False),
        ("明天会下雨吗", True),
        ("iPhone 13 手机壳很好看", True),
        ("明日は雨ですか", True),
        ("พรุ่งนี้ฝนตกไหม", True),
        ("내일 비가 오나요", False),
        ("будет ли дождь", False),
        ("The Beijing Daily (北京日报) reported on the meeting of the two ministers today", False),
        ("!!! :-) 🙂", True),
    ],
)
def test_words_are_counted_where_spaces_part_them(text: str, expected: bool) -> None:
    assert has_no_spaces([text]) == expected
