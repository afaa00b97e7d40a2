"""A tokenizer for any chat template, and the templates that trl ships, where it is installed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = ["the assistant cleans the data", "what is the weather in Paris", "数据清洗很重要"]
CONTROL_TOKEN = re.compile(r"<\|?[A-Za-z_/|｜▁]+\|?>|<｜[^｜]+｜>|\[/?(?:INST|gMASK|TOOL_CALLS)\]")
STOPS = (
    *(
        "<|im_end|>",
        "<|eot_id|>",
        "<end_of_turn>",
        "<turn|>",
        "<|END_OF_TURN_TOKEN|>",
        "<｜end▁of▁sentence｜>",
    ),
    *("<|return|>", "<|call|>", "<|eot|>", "<end_of_utterance>", "</s>"),
)
"""What the models of the templates stop at."""
STOPS_BY_FAMILY = {"glm4moe": ("<|endoftext|>", "<|user|>", "<|observation|>"), "phi3": ("<|end|>",)}


def tokenizer_for(template: str) -> Any:
    """Byte-level BPE in which the template's control tokens are one token each, as in its model's own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(LINES, trainer)
    names = sorted({*CONTROL_TOKEN.findall(template), "<s>", "</s>", "<|endoftext|>"})
    special = [name for name in names if re.search(r"[|｜]|turn|utterance|INST|^</?s>$", name)]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    backend.add_tokens([AddedToken(name, normalized=False) for name in names if name not in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


def stops_of(name: str, template: str) -> tuple[str, ...]:
    family = next((stops for prefix, stops in STOPS_BY_FAMILY.items() if name.startswith(prefix)), None)
    return family or tuple(stop for stop in STOPS if stop in template) or ("</s>",)


def shipped_templates() -> dict[str, str]:
    """By name; empty where trl is not installed, which is not imported."""
    trl = importlib.util.find_spec("trl")
    folders = trl.submodule_search_locations if trl else None
    files = [each for folder in folders or [] for each in Path(folder, "chat_templates").glob("*.jinja")]
    return {file.stem: file.read_text("utf-8") for file in sorted(files)}
