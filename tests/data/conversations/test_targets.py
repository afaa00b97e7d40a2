from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.conversations.wheel import CONTROL_TOKEN, shipped_templates, stops_of, tokenizer_for
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from loratrack.data.conversations.targets import (
    How,
    Rendered,
    Sample,
    Truncation,
    rendered,
    tokens_of,
    truncated,
)
from loratrack.data.conversations.templates import TargetError, Template, stop_tokens, template_of
from loratrack.errors import DataError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}<|start_header_id|>{{ m.role }}"
    "<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}]"
    "</s>{% elif m.role == 'assistant' %} {{ m.content }}</s>"
    "{% else %}{{ raise_exception('no ' + m.role) }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + ':' + c.function.arguments }}{% endfor %}"
    "<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}</s>{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)
WRITTEN = {"ChatML": CHATML, "Llama-3": LLAMA3, "Mistral": MISTRAL, "Qwen3": QWEN3, "DeepSeek": DEEPSEEK}
SHIPPED = shipped_templates()
TEMPLATES = WRITTEN | {"marked": MARKED} | SHIPPED
TAKES_PARTS = ("idefics3", "smolvlm", "llava_next")
"""Of models that see: their content is a list of parts."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where"}},
            "required": ["city"],
        },
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
HEADERS = re.compile(r"(?<=<\|channel\|>)final| to=user")
"""What models write before the words by themselves: gpt-oss a channel, Muse a recipient."""
SHARED = os.environ.get("LORATRACK_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data"
STORIES = Path(SHARED) / "stories260k"


def template(name: str, text: str | None = None, **variables: Any) -> Template:
    text = text or TEMPLATES[name]
    return Template(tokenizer_for(text), text, stops_of(name, text), f"data.template: {name}", variables)


def user(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


def assistant(words: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": words, **fields}


def conversation(name: str, *turns: tuple[str, str]) -> list[dict[str, Any]]:
    messages = [message for question, answer in turns for message in (user(question), assistant(answer))]
    if name.startswith(TAKES_PARTS):
        return [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
    return messages


def learned(samples: list[Rendered], tokenizer: Any) -> list[str]:
    tokens = [tokens_of(each, tokenizer) for each in samples]
    return [tokenizer.decode(each.ids[each.is_target]) for each in tokens]


def words_of(text: str) -> list[str]:
    """A learned text without what may stand around the words."""
    return [words.strip() for words in CONTROL_TOKEN.split(HEADERS.sub("", text)) if words.strip()]


@pytest.mark.skipif(not SHIPPED, reason="trl is not installed")
def test_all_of_trls_templates_are_looked_at() -> None:
    assert len(SHIPPED) == 72


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "turns",
    [
        [("What is two?", "It is three.")],
        [("What is two?", "It is three."), ("Sure?", "No, four!"), ("And?", "It stays four.")],
        [("做什么？😀", "数据清洗😀"), ("然后呢", "结束👨‍👩‍👧")],
    ],
    ids=["one turn", "three turns", "Chinese and emoji"],
)
def test_the_assistants_words_and_a_stop_token_are_learned_and_nothing_else(
    name: str, turns: list[tuple[str, str]]
) -> None:
    it = template(name)
    places = [2 * number + 1 for number in range(len(turns))]
    samples = rendered(conversation(name, *turns), places, [], it)
    texts = learned(samples, it.tokenizer)
    assert [words for text in texts for words in words_of(text)] == [answer for _, answer in turns]
    assert sum(text.count(stop) for text in texts for stop in it.stops) == len(turns)
    assert all(
        text.endswith(it.stops) and sample.text.endswith(it.stops)
        for text, sample in zip(texts, samples, strict=True)
    )


@pytest.mark.parametrize("name", [name for name in SHIPPED if f"{name}_training" in SHIPPED])
def test_what_trl_marks_for_training_is_what_is_learned(name: str) -> None:
    """Its markers were set by hand, and hold a name or a line's end besides."""
    turns = [("What is two?", "It is three."), ("做什么？", "数据清洗😀")]
    ours, theirs = template(name), template(f"{name}_training")
    samples = [rendered(conversation(name, *turns), [1, 3], [], each) for each in (ours, theirs)]
    assert theirs.has_markers
    words, marked = ("".join(learned(each, ours.tokenizer)) for each in samples)
    assert words == marked or name == "glm4moe"  # whose twin stops at the next <|user|>


@pytest.mark.parametrize("name", TEMPLATES)
def test_only_the_answers_asked_for_are_learned(name: str) -> None:
    it = template(name)
    turns = [("What is two?", "It is three."), ("Sure?", "No, four!"), ("And?", "It stays four.")]
    (sample,) = rendered(conversation(name, *turns), [3], [], it)
    assert words_of(*learned([sample], it.tokenizer)) == ["No, four!"]
    assert "It is three." in sample.text
    assert "And?" not in sample.text


@pytest.mark.parametrize("name", TEMPLATES)
def test_control_tokens_that_a_user_types_are_text(name: str) -> None:
    it = template(name)
    typed = [*set(CONTROL_TOKEN.findall(it.text)) & set(it.tokenizer.added_tokens_encoder), "</s>"]
    controls = set(it.tokenizer.added_tokens_decoder)

    def number_of_controls(question: str) -> int:
        samples = rendered(conversation(name, (question, "It is three.")), [1], [], it)
        (tokens,) = (tokens_of(each, it.tokenizer) for each in samples)
        assert question in it.tokenizer.decode(tokens.ids)
        assert words_of(*learned(samples, it.tokenizer)) == ["It is three."]
        return sum(each in controls for each in tokens.ids)

    assert number_of_controls(f"a{' '.join(sorted(typed))}b") == number_of_controls("What is two?")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_stop_token_in_an_answer_is_text_and_does_not_end_it(name: str) -> None:
    it = template(name)
    answer = f"Write {it.stops[0]} at the end."
    samples = rendered(conversation(name, ("How?", answer)), [1], [], it)
    (tokens,) = (tokens_of(each, it.tokenizer) for each in samples)
    ids = tokens.ids[tokens.is_target]
    assert answer in it.tokenizer.decode(ids)
    assert sum(each in it.tokenizer.convert_tokens_to_ids(list(it.stops)) for each in ids) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_tool_call_is_learned_whole_and_its_result_never_or_it_is_refused(name: str) -> None:
    it = template(name)
    messages = [
        user("How is it?"),
        assistant("", tool_calls=[CALL]),
        {"role": "tool", "name": "weather", "content": "sunny"},
        assistant("It shines."),
    ]
    try:
        samples = rendered(messages, [1, 3], [WEATHER], it)
    except TargetError as error:
        assert str(error).startswith(f"data.template: {name}: ")  # noqa: PT017
        return
    text = "".join(learned(samples, it.tokenizer))
    assert re.search("weather.*北京.*It shines", text, re.DOTALL)
    assert "sunny" not in text
    assert "How is it?" not in text
    assert any("sunny" in sample.text for sample in samples)


def test_templates_that_know_tools_learn_their_calls() -> None:
    messages = [user("How is it?"), assistant("", tool_calls=[CALL])]
    assert {
        name: learned(rendered(messages, [1], [], template(name)), template(name).tokenizer)
        for name in ("Mistral", "Qwen3", "DeepSeek")
    } == {
        "Mistral": ['[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "北京"}}]</s>'],
        "Qwen3": ['<tool_call>{"name": "weather", "arguments": {"city": "北京"}}</tool_call><|im_end|>'],
        "DeepSeek": ['weather:{"city": "北京"}<｜end▁of▁sentence｜>'],
    }


def test_a_template_that_leaves_tool_calls_out_is_refused() -> None:
    with pytest.raises(TargetError) as error:
        rendered([user("How is it?"), assistant("", tool_calls=[CALL])], [1], [], template("ChatML"))
    assert str(error.value) == (
        "data.template: ChatML: leaves 'weather' of message 2 out of what is learned; "
        "name another data.template"
    )


def test_answers_share_a_text_where_it_stays_the_same() -> None:
    it = template("ChatML")
    (sample,) = rendered(conversation("", ("Q1", "A1"), ("Q2", "A2")), [1, 3], [], it)
    assert [sample.text[start:end] for start, end in sample.spans] == ["A1<|im_end|>", "A2<|im_end|>"]


def test_each_answer_of_a_thinking_model_has_its_thought_and_a_history_without_thoughts() -> None:
    it = template("Qwen3")
    messages = [
        user("Q1"),
        assistant("A1", reasoning_content="T1"),
        user("Q2"),
        assistant("A2", reasoning_content="T2"),
    ]
    samples = rendered(messages, [1, 3], [], it)
    assert learned(samples, it.tokenizer) == [
        "<think>\nT1\n</think>\n\nA1<|im_end|>",
        "<think>\nT2\n</think>\n\nA2<|im_end|>",
    ]
    assert "T1" not in samples[1].text
    assert not any(sample.without_thought for sample in samples)


@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}])
def test_an_empty_thought_is_not_learned(variables: dict[str, Any]) -> None:
    it = template("Qwen3", **variables)
    samples = rendered([user("Q1"), assistant("A1")], [1], [], it)
    assert learned(samples, it.tokenizer) == ["A1<|im_end|>"]
    assert samples[0].text.endswith("<think>\n\n</think>\n\nA1<|im_end|>")


def test_thoughts_under_a_prompt_without_any_are_refused() -> None:
    it = template("Qwen3", enable_thinking=False)
    with pytest.raises(
        TargetError, match=r"it has no thought; set data\.variables: \{enable_thinking: true\}"
    ):
        rendered([user("Q1"), assistant("A1", reasoning_content="T1")], [1], [], it)


def test_a_thought_that_the_template_throws_away_is_refused() -> None:
    with pytest.raises(TargetError, match="leaves 'T1' of message 2 out of what is learned"):
        rendered([user("Q1"), assistant("<think>T1</think>A1")], [1], [], template("DeepSeek"))


def test_a_thought_that_only_the_prompt_opens_is_no_part_of_the_answer() -> None:
    it = template("DeepSeek")
    (sample,) = rendered([user("Q1"), assistant("A1")], [1], [], it)
    assert sample.text == "<s><｜User｜>Q1<｜Assistant｜>A1<｜end▁of▁sentence｜>"
    assert sample.without_thought


def test_a_prompt_that_is_no_beginning_of_the_text_is_refused() -> None:
    text = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>model\n{% endif %}")
    with pytest.raises(TargetError) as error:
        rendered([user("Q1"), assistant("A1")], [1], [], template("other", text))
    assert str(error.value) == (
        "data.template: other: the prompt for message 2 is not the beginning of the text with it, "
        "so that what is learned cannot be told; "
        "name a data.template with {% generation %} around the assistant's words"
    )


def test_a_template_that_does_not_begin_the_answer_is_refused() -> None:
    text = CHATML.partition("{% if add_generation_prompt")[0]
    with pytest.raises(
        TargetError, match=r"does not begin the answer when asked to .*another data\.template"
    ):
        rendered([user("Q1"), assistant("A1")], [1], [], template("other", text))


def test_a_template_that_raises_is_refused_with_its_words() -> None:
    with pytest.raises(
        TargetError, match=r"cannot show this conversation: 'no system'; name another data\.template"
    ):
        rendered(
            [{"role": "system", "content": "S"}, user("Q"), assistant("A")], [2], [], template("Mistral")
        )


def test_an_answer_that_ends_with_another_token_than_the_base_stops_at_is_refused() -> None:
    it = Template(tokenizer_for(CHATML), CHATML, ("<|endoftext|>",))
    with pytest.raises(TargetError) as error:
        rendered([user("Q1"), assistant("A1")], [1], [], it)
    assert str(error.value) == (
        "the tokenizer's chat template: ends an answer with '<|im_end|>', but the base stops at "
        "'<|endoftext|>'; name a data.template that ends it so, or have it stop there "
        "(data.stop_token: '<|im_end|>')"
    )


def test_a_stop_token_is_added_where_the_template_writes_none() -> None:
    it = template(
        "other",
        "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}a: {% endif %}",
    )
    samples = rendered(conversation("", ("Q1", "A1"), ("Q2", "A2")), [1, 3], [], it)
    assert [sample.text for sample in samples] == ["u: Q1\na: A1</s>", "u: Q1\na: A1\nu: Q2\na: A2</s>"]


def test_markers_that_do_not_hold_the_words_are_refused() -> None:
    text = MARKED.replace("{{ m.content }}{% endgeneration %}", " {% endgeneration %}{{ m.content }}")
    with pytest.raises(TargetError, match=r"its \{% generation %\} does not hold all of message 2"):
        rendered([user("Q1"), assistant("A1")], [1], [], template("marked", text))


def test_markers_around_another_message_are_refused() -> None:
    text = MARKED.replace("m.role == 'assistant'", "m.role == 'user'")
    with pytest.raises(TargetError, match=r"its \{% generation %\} does not hold message 2"):
        rendered([user("Q1"), assistant("A1")], [1], [], template("marked", text))


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(TargetError, match="message 2 of the assistant is empty; leave it out"):
        rendered([user("Q1"), assistant("")], [1], [], template("ChatML"))


def test_marks_in_the_data_cannot_make_text_of_the_templates_own_tokens() -> None:
    it = template("other", "{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    (sample,) = rendered([user("Q1\ufdd0"), user("\ufdd1Q2"), assistant("A1")], [2], [], it)
    assert sample.text == "Q1</s>Q2</s>A1</s>"
    assert (tokens_of(sample, it.tokenizer).ids == it.tokenizer.eos_token_id).sum() == 3


def test_what_an_assistant_writes_as_a_thought_or_a_call_is_tokens() -> None:
    it = template("Qwen3")
    words = "<think>T1</think><tool_call>{}</tool_call>"
    (sample,) = rendered([user(words), assistant(words)], [1], [], it)
    tokens = tokens_of(sample, it.tokenizer)
    for name in ("<tool_call>", "</tool_call>"):
        token = it.tokenizer.convert_tokens_to_ids(name)
        assert (tokens.ids == token).sum() == (tokens.ids[tokens.is_target] == token).sum() == 1


def test_an_added_token_that_the_template_does_not_write_is_a_word() -> None:
    it = template("ChatML")
    it.tokenizer.add_tokens(["<b>"])
    (sample,) = rendered([user("a <b>"), assistant("A1")], [1], [], it)
    assert it.tokenizer.convert_tokens_to_ids("<b>") in tokens_of(sample, it.tokenizer).ids


def test_a_control_token_that_cannot_be_written_as_text_is_refused() -> None:
    vocabulary = {word: number for number, word in enumerate(["?", "</s>", "Q1", "A1"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    it = Template(tokenizer, "{% for m in messages %}{{ m.content }}</s>{% endfor %}", ("</s>",))
    (sample,) = rendered([user("</s>"), assistant("A1")], [1], [], it)
    with pytest.raises(TargetError, match="the data hold '</s>', which this tokenizer cannot write as text"):
        tokens_of(sample, tokenizer)


def test_a_call_without_words_leaves_no_trace_of_none() -> None:
    it = template("Qwen3")
    (sample,) = rendered([user("Q1"), {**assistant("", tool_calls=[CALL]), "content": None}], [1], [], it)
    assert "None" not in sample.text


def test_there_is_one_beginning_of_the_text() -> None:
    it = template("Llama-3")
    it.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", it.tokenizer.bos_token_id)]
    )
    assert it.tokenizer("Q1")["input_ids"][0] == it.tokenizer.bos_token_id
    (sample,) = rendered(conversation("", ("Q1", "A1"), ("Q2", "A2")), [1, 3], [], it)
    ids = tokens_of(sample, it.tokenizer).ids
    assert (ids == it.tokenizer.bos_token_id).nonzero()[0].tolist() == [0]


@pytest.mark.skipif(not STORIES.exists(), reason="the base is not on this machine")
def test_a_tokenizer_of_sentencepiece_gives_the_words_and_the_stop_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    text = (
        "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        + ("{% if add_generation_prompt %}{{ bos_token }}assistant:{% endif %}")
    )
    it = template_of(tokenizer, None, text)
    (sample,) = rendered(conversation("", ("Say </s>!", "你好😀"), ("And?", "Once upon")), [1, 3], [], it)
    tokens = tokens_of(sample, tokenizer)
    assert tokenizer.decode(tokens.ids[tokens.is_target]).split("</s>") == ["你好😀", " Once upon", ""]
    assert (tokens.ids == tokenizer.eos_token_id).sum() == 4
    assert "Say </s>" in tokenizer.decode(tokens.ids)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(TargetError, match="take a base with a fast one"):
        tokens_of(Rendered("A1", ((0, 2),), (), False), SimpleNamespace(is_fast=False))


def test_stop_tokens_are_those_of_the_generation_config_or_the_tokenizers() -> None:
    tokenizer = tokenizer_for(CHATML)
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    assert stop_tokens(tokenizer, SimpleNamespace(eos_token_id=[end, eos])) == (end, eos)
    assert stop_tokens(tokenizer, SimpleNamespace(eos_token_id=end)) == (end,)
    assert stop_tokens(tokenizer, SimpleNamespace(eos_token_id=[end, 5, 99_999])) == (end,)
    assert stop_tokens(tokenizer, None) == (eos,)
    assert template_of(tokenizer, SimpleNamespace(eos_token_id=end)).stops == ("<|im_end|>",)


def test_a_base_without_a_stop_token_or_a_template_is_refused() -> None:
    tokenizer = tokenizer_for(CHATML)
    with pytest.raises(
        TargetError, match=r"stops at \[5\], no control token of its tokenizer; name data\.stop_token"
    ):
        stop_tokens(tokenizer, SimpleNamespace(eos_token_id=5))
    tokenizer.chat_template = None
    with pytest.raises(
        TargetError, match=r"data\.template: this tokenizer brings no chat template; name one"
    ):
        template_of(tokenizer, None)
    tokenizer.eos_token = None
    with pytest.raises(TargetError, match=r"this base stops at \[\], no control token"):
        stop_tokens(tokenizer, None)


def sample(is_target: str) -> Sample:
    """`..xx`: four tokens 0, 1, 2, 3, of which the last two are targets."""
    return Sample(np.arange(len(is_target), dtype=np.int32), np.array([each == "x" for each in is_target]))


@pytest.mark.parametrize(
    ("how", "max_len", "bos", "ids", "targets", "counts"),
    [
        ("left", 8, None, [0, 1, 2, 3, 4, 5, 6, 7], [2, 3, 6, 7], Truncation()),
        ("left", 7, None, [1, 2, 3, 4, 5, 6, 7], [2, 3, 6, 7], Truncation(1, 0, 0)),
        ("left", 5, None, [3, 4, 5, 6, 7], [6, 7], Truncation(1, 0, 2)),
        ("left", 7, 0, [0, 2, 3, 4, 5, 6, 7], [2, 3, 6, 7], Truncation(1, 0, 0)),
        ("right", 7, None, [0, 1, 2, 3, 4, 5, 6], [2, 3, 6], Truncation(1, 0, 1)),
    ],
)
def test_a_long_sample_is_cut(
    how: How, max_len: int, bos: int | None, ids: list[int], targets: list[int], counts: Truncation
) -> None:
    (cut,), truncation = truncated([sample("..xx..xx")], max_len, how, bos)
    assert cut.ids.tolist() == ids
    assert cut.ids[cut.is_target].tolist() == targets
    assert truncation == counts


def test_a_sample_without_a_target_left_is_dropped_and_counted() -> None:
    samples = [sample("..xx"), sample("..xxxx"), sample(".....x")]
    assert [len(each.ids) for each in truncated(samples, 4, "drop")[0]] == [4]
    assert truncated(samples, 4, "drop")[1] == Truncation(0, 2, 5)
    assert truncated(samples, 4, "right")[1] == Truncation(1, 1, 3)
    assert truncated([sample("..xx"), sample(".xxxxx")], 4)[1] == Truncation(0, 1, 5)


def test_long_samples_are_refused_where_they_are_to_be_an_error() -> None:
    with pytest.raises(DataError) as error:
        truncated([sample("..xx"), sample("..xxxx")], 4, "error")
    assert str(error.value) == (
        "data.truncation: 1 sample longer than data.max_len (4), the longest has 6 tokens; "
        "raise data.max_len, or set data.truncation to left, right or drop"
    )


def test_data_of_which_nothing_is_left_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.max_len: no answer fits into 1 tokens; raise data\.max_len"):
        truncated([sample(".xx")], 1)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4), st.integers(1, 30))
def test_cut_on_the_left_each_answer_is_learned_whole_or_not_at_all(
    turns: list[tuple[int, int]], max_len: int
) -> None:
    whole = sample("".join("." * prompt + "x" * answer for prompt, answer in turns))
    answers = np.split(whole.ids[whole.is_target], np.cumsum([answer for _, answer in turns])[:-1])
    fitting = [answer.tolist() for answer in answers if len(whole.ids) - answer[0] <= max_len]
    if not fitting:
        with pytest.raises(DataError, match="no answer fits"):
            truncated([whole], max_len)
        return
    (cut,), _ = truncated([whole], max_len)
    assert cut.ids.tolist() == whole.ids[-max_len:].tolist()
    assert cut.ids[cut.is_target].tolist() == [each for answer in fitting for each in answer]
