"""Which modules of an architecture get LoRA when a config says `target_modules: auto`.

PEFT's own table is the base. Ours adds and changes the few below; a new architecture goes here only
when detection from its modules (`targets.py`) would choose wrongly.
"""

from __future__ import annotations

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    # not in PEFT's table
    "distilbert": ("q_lin", "v_lin"),
    "modernbert": ("Wqkv",),
    "phi3": ("qkv_proj",),
    "qwen": ("c_attn",),
    "baichuan": ("W_pack",),
    # ERNIE is BERT with other weights; its users tune the keys too
    "ernie": ("query", "key", "value"),
    # PEFT adds fc1 and fc2; attention alone keeps one rank comparable across architectures
    "phi": ("q_proj", "v_proj"),
}


def default_targets(model_type: str) -> tuple[str, ...]:
    """Suffixes of module names; empty where detection has to say."""
    if model_type in DEFAULT_TARGETS:
        return DEFAULT_TARGETS[model_type]
    theirs = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type, ())
    return () if isinstance(theirs, str) else tuple(theirs)  # a text is a pattern over whole names
