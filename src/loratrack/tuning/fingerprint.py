"""What a study was begun with: trials of other settings must not come under the same name."""

from __future__ import annotations

import json

import optuna

from loratrack.config import flat, plain
from loratrack.config.files import portable
from loratrack.config.layers import Settings
from loratrack.config.sweep import SweepConfig
from loratrack.errors import ConfigError
from loratrack.tuning import objectives

BEGUN_WITH = "begun_with"
CHOSEN_BY = "chosen_by"
WITHOUT_EFFECT = (
    "exp_id",
    "description",
    "base_config",
    "register",
    "project",
    "experiment",
    "baseline",
    "resources.",
    "train.checkpoint_minutes",
)
"""Settings that change no result."""


def keep(study: optuna.Study, config: SweepConfig) -> None:
    study.set_user_attr(BEGUN_WITH, json.dumps(facts_of(config), ensure_ascii=False, sort_keys=True))


def new_choosers(study: optuna.Study, config: SweepConfig) -> list[str]:
    """Which of sampler, pruner and their settings are new since the last process; the study knows them now.

    The trials before stay comparable, since how they were chosen changes no result.
    """
    sweep = config.sweep
    now = {
        "sampler": sweep.sampler,
        "pruner": objectives.pruner_name(sweep),
        "min_epochs": sweep.min_epochs,
        "seed": sweep.seed,
    }
    before = study.user_attrs.get(CHOSEN_BY, now)
    study.set_user_attr(CHOSEN_BY, now)
    return [f"sweep.{key} was {before[key]}, is {now[key]}" for key in now if before[key] != now[key]]


def changes(study: optuna.Study, config: SweepConfig) -> list[str]:
    """What differs from the settings that the study was begun with; nothing for a new one."""
    before = study.user_attrs.get(BEGUN_WITH)
    return [] if before is None else differences(json.loads(before), facts_of(config))


def refusal(config: SweepConfig, changes: list[str]) -> ConfigError:
    first = (
        f"sweep {config.sweep.name!r} was begun with other settings, and its trials cannot be"
        " compared with new ones; put these back, or give it another sweep.name:"
    )
    return ConfigError("\n".join([first, *(f"  {line}" for line in changes)]))


def facts_of(config: SweepConfig) -> Settings:
    """All that a trial's result depends on, in plain values."""
    space = config.sweep.space
    always_varied = tuple(key for key, one in space.items() if not one.when)
    facts: Settings = {}
    for key, value in flat(portable(config.run_settings)).items():
        is_varied = any(key == name or key.startswith(f"{name}.") for name in always_varied)
        if not is_varied and not key.startswith(WITHOUT_EFFECT):
            facts[key] = value
    for key, one in plain(config)["sweep"]["space"].items():
        facts[f"sweep.space.{key}"] = {name: value for name, value in one.items() if value != {}}
    aims = zip(config.sweep.metrics, objectives.directions(config.sweep), strict=True)
    facts["sweep.metric"] = [f"{direction} {metric}" for metric, direction in aims]
    as_stored: Settings = json.loads(json.dumps(facts))
    return as_stored


def differences(before: Settings, now: Settings) -> list[str]:
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = (
            json.dumps(facts[key], ensure_ascii=False) if key in facts else None for facts in (before, now)
        )
        if old is None:
            lines.append(f"{key}: is {new}, was not there")
        elif new is None:
            lines.append(f"{key}: was {old}, is not there")
        elif before[key] != now[key]:
            lines.append(f"{key}: was {old}, is {new}")
    return lines
