"""LoRATrack: fine-tune many LoRA models and never lose track of one."""

__version__ = "0.1.0"
