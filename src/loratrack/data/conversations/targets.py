"""From a conversation to tokens and which of them are learned: the assistant's words and their stop token.

    samples = [tokens_of(each, tokenizer) for each in rendered(messages, targets, tools, template)]
    samples, truncation = truncated(samples, max_len=512, how="left", bos=tokenizer.bos_token_id)

A learned answer is the difference of two texts: what the template makes of the conversation up to it, and the
prompt that the template gives to a model which is to answer there. Where a later message does not change what
stands before it, several answers share a text; elsewhere (Qwen3 takes thoughts out of the history) each has a
sample of its own, with the history that the model will see. What cannot be told for certain is a TargetError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from loratrack.data.conversations.templates import Message, Span, TargetError, Template, Text
from loratrack.data.tokens import Array
from loratrack.errors import DataError, counted, quoted

OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
EMPTY_THOUGHT = re.compile(r"\s*(?:<think>)?\s*</think>\n{0,2}")
THOUGHT_TAGS = re.compile(r"</?think>")

How = Literal["left", "right", "drop", "error"]


@dataclass(frozen=True)
class Rendered:
    """One sample as text; it ends with its last target."""

    text: str
    spans: tuple[Span, ...]
    """Which characters are learned."""
    typed: tuple[Span, ...]
    """Control tokens that somebody typed: they are tokenised as text."""
    without_thought: bool
    """An answer has no thought where the template has a place for one: ask the model without thinking."""


@dataclass(frozen=True)
class Sample:
    ids: Array
    """int32"""
    is_target: Array
    """bool, as long as `ids`"""


@dataclass(frozen=True)
class Truncation:
    """What became of samples longer than they may be."""

    num_cut: int = 0
    num_dropped: int = 0
    num_lost_targets: int = 0
    """Target tokens that were cut off, became prompt or were in dropped samples."""


def rendered(
    messages: Sequence[Message], targets: Sequence[int], tools: Sequence[Any], template: Template
) -> list[Rendered]:
    """The samples of a conversation whose answers `targets` (places in `messages`) are learned."""
    samples: list[Rendered] = []
    for place in targets:
        sample = _answer(messages, place, tools, template)
        if samples and sample.text.startswith(samples[-1].text):
            before = samples.pop()
            without_thought = before.without_thought or sample.without_thought
            sample = replace(sample, spans=before.spans + sample.spans, without_thought=without_thought)
        samples.append(sample)
    return samples


def _answer(messages: Sequence[Message], place: int, tools: Sequence[Any], template: Template) -> Rendered:
    """The sample in which message `place` alone is learned."""
    whole = template.render(messages[: place + 1], tools)
    prompt = template.render(messages[:place], tools, asks=True)
    spans = _answer_spans(whole, prompt, place, template)
    start = spans[0][0]

    opens_thought = OPEN_THOUGHT.search(prompt.text) and not whole.text.startswith(prompt.text)
    empty = EMPTY_THOUGHT.match(whole.text, start)
    start = empty.end() if empty else start

    parts = list(_parts(messages[place]))
    if not parts:
        raise TargetError(f"message {place + 1} of the assistant is empty; leave it out")
    words_end = start
    for part in parts:
        ends = [whole.text.find(form, start) + len(form) for form in part if form in whole.text[start:]]
        if not ends:
            raise template.refusal(f"leaves {quoted(part[0])} of message {place + 1} out of what is learned")
        words_end = max(words_end, min(ends))

    # A name before the words ("assistant:") is learned where the model writes it itself, as gpt-oss does.
    has_name = len(parts) == 1 and whole.text[start : words_end - len(parts[0][0])].strip()
    if has_name and template.render(messages[:place], tools) == prompt:
        raise template.refusal("does not begin the answer when asked to (add_generation_prompt)")
    if template.has_markers and words_end > spans[-1][1]:
        raise template.refusal(f"its {{% generation %}} does not hold all of message {place + 1}")

    text, end = _stopped(whole, words_end, template)
    inner = [(max(start, first), last) for first, last in spans if first < end and last > start]
    return Rendered(
        text,
        (*inner[:-1], (inner[-1][0] if inner else start, end)),
        whole.typed,
        without_thought=bool(empty or opens_thought),
    )


def _answer_spans(whole: Text, prompt: Text, place: int, template: Template) -> list[Span]:
    """Where the answer stands: by the template's own markers, or after the prompt."""
    without_thought = OPEN_THOUGHT.sub("", prompt.text)
    given = next((text for text in (prompt.text, without_thought) if whole.text.startswith(text)), None)
    if template.has_markers:
        start = len(given or "")
        marked = [
            (max(start, first), last) for first, last in whole.marked[len(prompt.marked) :] if last > start
        ]
        if not marked:
            raise template.refusal(f"its {{% generation %}} does not hold message {place + 1}")
        return marked
    if given is None:
        fault = f"the prompt for message {place + 1} is not the beginning of the text with it"
        if "</think>" in prompt.text[prompt.text.rfind("<think>") :]:
            raise template.refusal(
                f"{fault}: it has no thought",
                "set data.variables: {enable_thinking: true}, or name another data.template",
            )
        remedy = "name a data.template with {% generation %} around the assistant's words"
        raise template.refusal(f"{fault}, so that what is learned cannot be told", remedy)
    return [(len(given), len(whole.text))]


def _parts(message: Message) -> Iterator[tuple[str, ...]]:
    """What must be learned of a message, each part in the forms that it may take."""
    content = message.get("content") or ""
    texts = [content] if isinstance(content, str) else [item.get("text", "") for item in content]
    thought = message.get("reasoning_content") or message.get("thinking") or ""
    for text in (thought, *texts):
        yield from ((part.strip(),) for part in THOUGHT_TAGS.split(text) if part.strip())
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        yield (function["name"],)
        arguments = function.get("arguments") or {}
        yield from ((arguments,),) if isinstance(arguments, str) else _leaves(arguments)


def _leaves(value: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield (key,)
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]
    else:
        yield json.dumps(value), str(value)


def _stopped(whole: Text, words_end: int, template: Template) -> tuple[str, int]:
    """The text up to the stop token after the words, which is added where the template writes none."""
    controls = list(template.special.finditer(whole.text, words_end))
    for match in controls:
        if match[0] in template.stops:
            return whole.text[: match.end()], match.end()
    if controls:
        raise template.refusal(
            f"ends an answer with {controls[-1][0]!r}, but the base stops at "
            f"{', '.join(map(repr, template.stops))}",
            "name a data.template that ends it so, or have it stop there "
            f"(data.stop_token: {controls[-1][0]!r})",
        )
    text = whole.text.rstrip() if whole.text[words_end:].strip() else whole.text[:words_end]
    return text + template.stops[0], len(text + template.stops[0])


def tokens_of(sample: Rendered, tokenizer: Any) -> Sample:
    """A token is a target if one of its characters is: the last one of a Chinese word may be three tokens."""
    if not tokenizer.is_fast:
        raise TargetError(
            "this tokenizer does not tell which characters a token stands for; take a base with a fast one"
        )
    # The template has written what belongs to the beginning.
    encoded = tokenizer(sample.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if sample.typed:
        ids, offsets = _typed_as_text(sample, ids, offsets, tokenizer)
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    is_target = np.zeros(len(ids), bool)
    for first, last in sample.spans:
        is_target |= (starts < last) & (ends > first)
    return Sample(np.array(ids, np.int32), is_target)


def _typed_as_text(
    sample: Rendered, ids: Sequence[int], offsets: Sequence[Span], tokenizer: Any
) -> tuple[list[int], list[Span]]:
    controls = set(tokenizer.added_tokens_decoder)
    pairs: list[tuple[int, Span]] = []
    for token, (start, end) in zip(ids, offsets, strict=True):
        if token in controls and any(first < end and last > start for first, last in sample.typed):
            text = sample.text[start:end]
            plain = _plain(text, tokenizer.backend_tokenizer)
            if token in plain:
                raise TargetError(f"the data hold {text!r}, which this tokenizer cannot write as text")
            pairs += [(each, (start, end)) for each in plain]
        else:
            pairs.append((token, (start, end)))
    return [token for token, _ in pairs], [span for _, span in pairs]


def _plain(text: str, backend: Any) -> list[int]:
    """Tokens of a text in the middle of another, none of them added ones."""

    def encode(words: str) -> list[int]:
        words = backend.normalizer.normalize_str(words) if backend.normalizer else words
        pieces = backend.pre_tokenizer.pre_tokenize_str(words) if backend.pre_tokenizer else [(words, None)]
        return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]

    # After a line's end, where SentencePiece puts no space before it as at the beginning of a text.
    before, both = encode("\n"), encode("\n" + text)
    is_apart = len(both) > len(before) and both[: len(before)] == before
    return both[len(before) :] if is_apart else encode(text)


def truncated(
    samples: Iterable[Sample], max_len: int, how: How = "left", bos: int | None = None
) -> tuple[list[Sample], Truncation]:
    """Samples of at most `max_len` tokens, each with a target.

    left: the beginning of the prompt goes, `bos` stays. No answer is learned in part: what is left of
    one becomes prompt, and a sample whose last answer does not fit is dropped.
    right: the end goes, be it an answer. drop, error: a longer sample is left out, or refused.
    """
    kept: list[Sample] = []
    num_cut = num_dropped = num_lost = 0
    too_long: list[int] = []
    for sample in samples:
        length, cut = len(sample.ids), sample
        if length > max_len:
            too_long.append(length)
            cut = _cut(sample, max_len, how, bos)
            num_lost += int(sample.is_target.sum() - cut.is_target.sum())
        if cut.is_target.any():
            kept.append(cut)
            num_cut += length > max_len
        else:
            num_dropped += 1
    if too_long and how == "error":
        raise DataError(
            f"data.truncation: {counted(len(too_long), 'sample')} longer than data.max_len ({max_len}), "
            f"the longest has {max(too_long):,} tokens; raise data.max_len, or set data.truncation to left, "
            "right or drop"
        )
    if num_dropped and not kept:
        raise DataError(f"data.max_len: no answer fits into {max_len} tokens; raise data.max_len")
    return kept, Truncation(num_cut, num_dropped, num_lost)


def _cut(sample: Sample, max_len: int, how: How, bos: int | None) -> Sample:
    """At most `max_len` tokens; without any where the sample is left out."""
    if how == "right":
        return Sample(sample.ids[:max_len], sample.is_target[:max_len])
    if how != "left":
        return Sample(sample.ids[:0], sample.is_target[:0])
    keeps_bos = bos is not None and sample.ids[0] == bos and max_len > 1
    start = len(sample.ids) - max_len + keeps_bos
    is_target = sample.is_target[start:].copy()
    if sample.is_target[start - 1]:  # the rest of an answer
        is_target[np.logical_and.accumulate(is_target)] = False
    ids = np.concatenate([sample.ids[:keeps_bos], sample.ids[start:]])
    return Sample(ids, np.concatenate([sample.is_target[:keeps_bos], is_target]))
