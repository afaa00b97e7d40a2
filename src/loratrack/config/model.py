"""The `model` section: the base and its adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, Tag

from loratrack.config.fields import Factor, FilePath, NotEmpty, Section, Share, one_shape_of

TargetModules = Annotated[
    Annotated[Literal["auto", "all-linear"], Tag("<word>")]
    | Annotated[tuple[NotEmpty, ...], Field(min_length=1), Tag("<list>")],
    one_shape_of("must be a list of module names, `auto` or `all-linear`", "auto", "all-linear"),
]


class Lora(Section):
    rank: Annotated[int, Field(gt=0, le=8192)] = Field(default=16, validation_alias=AliasChoices("rank", "r"))
    alpha: Factor = Field(default=32, validation_alias=AliasChoices("alpha", "lora_alpha"))
    dropout: Share = Field(default=0.05, validation_alias=AliasChoices("dropout", "lora_dropout"))
    target_modules: TargetModules = "auto"
    allow_partial: bool = False
    """Accept target modules that exist in some layers only."""


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
