"""A config as it may be stored: its secrets are hidden before anything is written, logged or sealed."""

from __future__ import annotations

from loratrack.config import flat, plain
from loratrack.config.layers import Settings
from loratrack.config.schema import data_paths
from loratrack.errors import ConfigError, problems_message
from loratrack.experiments.loading import AnyConfig
from loratrack.store.secrets import scrub_name, scrub_text, scrub_values

FREE_TEXT = ("description", "data.data_process_version")
NOT_READ_AGAIN = ("base_config", "sweep.storage")
"""With the paths of the data: a trained model loads without them."""


def storable(config: AnyConfig) -> AnyConfig:
    """The config with `***` for the secrets in its texts, its data paths and `sweep.storage`; it loads again.

    ConfigError where a secret stands in a name, which must stay as it is: a model finds its base by it.
    """
    config = texts_hidden(config)
    hidden: Settings = {}
    problems = []
    for key, value in flat(plain(config)).items():
        shown = scrub_values(value, scrub_name)
        if key in NOT_READ_AGAIN or key in data_paths(config):
            hidden[key] = shown
        elif key not in FREE_TEXT and (shown != value or scrub_name(key) != key):
            problems.append(f"{scrub_name(key)}: must not hold a secret, got {shown!r}; choose another name")
    if problems:
        raise ConfigError(problems_message(scrub_name(config.exp_id), problems, "invalid name"))
    return _with(config, hidden)


def texts_hidden(config: AnyConfig) -> AnyConfig:
    """The config with `***` for the secrets in its texts alone: it trains as before."""
    texts = flat(plain(config))
    return _with(config, {key: scrub_text(texts[key]) for key in FREE_TEXT})


def _with(config: AnyConfig, values: Settings) -> AnyConfig:
    settings = plain(config)
    for key, value in values.items():
        *sections, name = key.split(".")
        section = settings
        for one in sections:
            section = section[one]
        section[name] = value
    return type(config).model_validate(settings)
