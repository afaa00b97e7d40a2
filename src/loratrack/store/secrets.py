"""What must not reach a store: passwords, tokens and keys are replaced by `***`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

HIDDEN = "***"
MIN_SECRET_LENGTH = 8
"""Values of secret environment variables shorter than this are too common to look for everywhere."""

_SECRET_WORD = re.compile(r"[a-z]*pass(?:word|wd|phrase)|pwd|secrets?|token|credentials?|apikey")
_KEY_OWNER = re.compile(
    r"api|access|account|auth|client|encryption|license|master|private|secret|service|session|signing"
    r"|ssh|storage|subscription"
)
_TEXT_WORD = re.compile(
    r"pad|eos|bos|unk|sep|cls|mask|special|additional|ids?|index|types?|per|count|limit|budget|length"
    r"|num|max|min|start|end|decoder|image|prefix|embeddings?"
)
"""Beside one of these a token is a piece of text, not a secret."""

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_URL_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,30}://)(?!git@)[^/\s'\"<>]{1,500}@")
_FORMATS = re.compile(
    r"""-----BEGIN[A-Z ]*PRIVATE\ KEY-----.*?(?:-----END[A-Z ]*PRIVATE\ KEY-----|\Z)
      | \bhf_[A-Za-z0-9]{16,}
      | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
      | \bgh[pousr]_[A-Za-z0-9]{20,}
      | \bgithub_pat_\w{20,}
      | \bglpat-[\w-]{16,}
      | \bsk-[A-Za-z0-9_-]{16,}
      | \bxox[abeoprs]-[\w-]{10,}
      | \bAIza[\w-]{30,}
      | \bdapi[0-9a-f]{32}\b
      | \bpypi-[\w-]{32,}
      | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*
      | (?i:\b(?:bearer|basic)\s+(?=\S*\d)[\w.~+/=-]{8,})""",
    re.VERBOSE | re.DOTALL,
)
_NAME = r"(?P<name>[\w.-]{0,60}(?:pass(?:word|wd|phrase)|pwd|secret|token|credential|key)[\w-]{0,40})"
_VALUE = r"""(?P<value>(?P<quote>\\?["'])[^"'\n]*(?P=quote)|[^\s,;&"'`(){}\[\]\\]+)(?P<call>[(\[])?"""
_ASSIGNMENTS = (
    # a line of YAML: the value is the rest of the line
    re.compile(rf"(?im)^(?P<head>[\s+-]*{_NAME}\s*:[ \t]+)(?P<value>[^\s\"'{{\[|>&][^\n]*)$"),
    re.compile(rf"""(?i)(?P<head>{_NAME}(?:\\?["'])?\s*[:=]\s*){_VALUE}"""),
    re.compile(rf"(?i)(?P<head>(?<!\S)--?{_NAME}\s+)(?!-){_VALUE}"),
)
_CODE = re.compile(
    r"(?:self|cls|os|args|config|settings|tokenizer|model|mlflow)\.[\w.]+"
    r"|-?[\d.]+|true|false|none|null|str|int|bool|bytes|float|any|\$\{?\w+\}?|<\w+>|\*+",
    re.IGNORECASE,
)


def scrub(value: Any) -> Any:
    """`value` with its secrets hidden; texts, lists and mappings at any depth, all else unchanged."""
    if isinstance(value, str):
        return scrub_text(value)
    if isinstance(value, Mapping):
        return {key: _scrub_named(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    return value


def scrub_text(text: str) -> str:
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    text = _URL_USER.sub(rf"\g<1>{HIDDEN}@", text)
    text = _FORMATS.sub(HIDDEN, text)
    for assignment in _ASSIGNMENTS:
        text = assignment.sub(_hide_value, text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether a setting or variable of this name holds a secret: `hub_token` does, `pad_token` does not."""
    parts = [part.lower() for part in _PART.findall(name)]
    if any(_SECRET_WORD.fullmatch(part) for part in parts):
        return not any(_TEXT_WORD.fullmatch(part) for part in parts)
    return any(key == "key" and _KEY_OWNER.fullmatch(owner) for owner, key in pairwise(parts))


def _scrub_named(name: str, value: Any) -> Any:
    is_text = isinstance(value, str) and value and not _CODE.fullmatch(value)
    return HIDDEN if is_text and is_secret_name(name) else scrub(value)


def _environment_secrets() -> list[str]:
    """Longest first, so that no secret hides a part of another one only."""
    values = {
        value
        for name, value in os.environ.items()
        if len(value) >= MIN_SECRET_LENGTH
        and not value.startswith(("/", "~"))
        and (is_secret_name(name) or name.upper().endswith("_KEY"))
    }
    return sorted(values, key=len, reverse=True)


def _hide_value(match: re.Match[str]) -> str:
    groups = match.groupdict()
    quote = groups.get("quote") or ""
    is_code = not quote and (groups.get("call") or _CODE.fullmatch(match["value"].strip()))
    if is_code or not is_secret_name(match["name"]):
        return match[0]
    return f"{match['head']}{quote}{HIDDEN}{quote}"
