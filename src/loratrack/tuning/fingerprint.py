"""What a study was begun with: trials of other settings must not come under the same name."""

from __future__ import annotations

import json
from typing import Any

import optuna

from loratrack.config import flat, plain
from loratrack.config.files import portable
from loratrack.config.sweep import SweepConfig
from loratrack.errors import ConfigError
from loratrack.tuning import objectives

BEGUN_WITH = "begun_with"
FREE = ("exp_id", "description", "base_config", "project", "register", "resources.")
"""Settings that change no result."""


def keep(study: optuna.Study, config: SweepConfig) -> None:
    study.set_user_attr(BEGUN_WITH, json.dumps(facts_of(config), ensure_ascii=False, sort_keys=True))


def changes(study: optuna.Study, config: SweepConfig) -> list[str]:
    """What differs from the settings that the study was begun with; nothing for a new one."""
    before = study.user_attrs.get(BEGUN_WITH)
    return [] if before is None else differences(json.loads(before), facts_of(config))


def refusal(config: SweepConfig, changed: list[str]) -> ConfigError:
    first = (
        f"sweep {config.sweep.name!r} was begun with other settings, and its trials cannot be"
        " compared with new ones; put these back, or give it another sweep.name:"
    )
    return ConfigError("\n".join([first, *(f"  {line}" for line in changed)]))


def facts_of(config: SweepConfig) -> dict[str, Any]:
    """All that a trial's result depends on, in plain values."""
    settings = flat(portable(config.run_settings))
    varied = tuple(key for key, one in config.sweep.space.items() if not one.when)
    result = {
        key: value
        for key, value in settings.items()
        if not key.startswith(FREE) and not any(key == name or key.startswith(f"{name}.") for name in varied)
    }
    space = plain(config)["sweep"]["space"]
    result |= {f"sweep.space.{key}": {k: v for k, v in one.items() if v != {}} for key, one in space.items()}
    aims = zip(config.sweep.metrics, objectives.directions(config.sweep), strict=True)
    result["sweep.metric"] = [f"{direction} {metric}" for metric, direction in aims]
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    kept = {key for key in before.keys() & now.keys() if before[key] == now[key]}
    changed = sorted((before.keys() | now.keys()) - kept)
    return [_difference(key, before, now) for key in changed]


def _difference(key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    if key not in before:
        return f"{key}: is {_shown(now[key])}, was not there"
    if key not in now:
        return f"{key}: was {_shown(before[key])}, is not there"
    return f"{key}: was {_shown(before[key])}, is {_shown(now[key])}"


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
