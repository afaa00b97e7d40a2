"""The `model` section: the base and its adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, NonNegativeInt, Tag, model_validator

from loratrack.config.fields import Factor, FilePath, NotEmpty, Section, Share, one_shape_of

TargetModules = Annotated[
    Annotated[Literal["auto", "all-linear"], Tag("<word>")]
    | Annotated[tuple[NotEmpty, ...], Field(min_length=1), Tag("<list>")],
    one_shape_of("must be a list of module names, `auto` or `all-linear`", "auto", "all-linear"),
]

SHARED_BASE = "which all members of a cohort share and no adapter holds"
NOT_HERE = {
    **dict.fromkeys(
        ("pissa", "olora", "corda", "loftq", "lora_ga", "mica"),
        f"would change the weights of the base, {SHARED_BASE}",
    ),
    "eva": "needs passes over the data before there is an adapter",
    "false": "begins with a changed network, and is for PEFT's own tests",
}
"""Ways of PEFT to begin that are refused, and why."""


def _init(value: object) -> object:
    name = str(value).lower()
    if name == "true":  # PEFT's name of its default
        return "default"
    why = NOT_HERE.get("pissa" if name.startswith("pissa_niter") else name)
    if why is not None:
        raise ValueError(f"must be default, gaussian or orthogonal, got {value!r}, which {why}")
    return value


def _bias(value: object) -> object:
    if value in ("all", "lora_only"):
        raise ValueError(f"must be none, got {value!r}, which would train biases of the base, {SHARED_BASE}")
    return value


class Lora(Section):
    rank: Annotated[int, Field(gt=0, le=8192)] = Field(default=16, validation_alias=AliasChoices("rank", "r"))
    alpha: Factor = Field(default=32.0, validation_alias=AliasChoices("alpha", "lora_alpha"))
    dropout: Share = Field(default=0.05, validation_alias=AliasChoices("dropout", "lora_dropout"))
    target_modules: TargetModules = "auto"
    allow_partial: bool = False
    """Accept target modules that exist in some layers only."""
    layers: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = Field(
        default=None, validation_alias=AliasChoices("layers", "layers_to_transform")
    )
    """The layers that get an adapter, counted from 0; null: all."""
    use_rslora: bool = False
    """Scale the update by alpha / sqrt(rank) instead of alpha / rank."""
    use_dora: bool = False
    """Train the length of each row of a weight by itself, beside its direction."""
    init: Annotated[Literal["default", "gaussian", "orthogonal"], BeforeValidator(_init)] = Field(
        default="default", validation_alias=AliasChoices("init", "init_lora_weights")
    )
    bias: Annotated[Literal["none"], BeforeValidator(_bias)] = "none"

    @model_validator(mode="after")
    def _orthogonal_rows_come_in_pairs(self) -> Lora:
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"init orthogonal needs an even rank, got {self.rank}")
        return self


LORA_ALIASES = {
    str(alias): name
    for name, field in Lora.model_fields.items()
    if isinstance(field.validation_alias, AliasChoices)
    for alias in field.validation_alias.choices
}


class Model(Section):
    arch: FilePath = "minilm"
    """`minilm` (the built-in), a hub name, a local folder, or a network trained here: models:/NAME@ALIAS,
    models:/NAME/N or runs:/ID."""
    use_lora: bool = True
    trust_remote_code: bool = False
    pooling: Literal["cls", "mean", "last"] = "cls"
    lora: Lora = Lora()
