"""What must not reach a store: passwords, tokens and keys are replaced by `***`.

scrub_text(description)     # free text: also what stands behind a word such as `password`
scrub_name(path)            # a name or a path: only what nobody would call a file
scrub(facts)                # texts at any depth, and whole values by the name they stand under

Each pattern takes time in proportion to the text: it starts once in a run of letters, or is bounded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

HIDDEN = "***"
MIN_SECRET_LENGTH = 8
"""Values of secret environment variables shorter than this are too common to look for everywhere."""
MIN_RANDOM_LENGTH = 12
"""So many letters and digits in a row that are no word are a key; `LoRA` and `roberta2024` are none."""

_PASSWORD = r"[a-z]*pass(?:word|wd|phrase|code)s?|pwd|pw|apikey"
_SECRET_WORD = re.compile(rf"{_PASSWORD}|secrets?|token|credentials?")
_KEY_OWNER = re.compile(
    r"api|access|account|auth|client|encryption|license|master|private|secret|service|session|shared|signing"
    r"|ssh|storage|subscription"
)
_SHORT_NAMES = {"pat", "pin", "auth", "sessionid", "sig", "signature", "session"}
"""Too common to be sure of: what stands behind them must look like a secret too."""
_TEXT_WORD = re.compile(
    r"pad|eos|bos|unk|sep|cls|mask|special|additional|ids?|index|types?|per|count|limit|budget|length"
    r"|num|max|min|start|end|decoder|image|prefix|embeddings?"
)
"""Beside one of these a token is a piece of text, not a secret; nor is one a secret by itself."""

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PLAIN = re.compile(r"[A-Z]?[a-z]+[0-9]{0,4}|[A-Z]{1,10}[0-9]{0,4}|v?[0-9]{1,10}[a-z]{0,2}")
"""A word of a name, with a number perhaps."""
_PIECE = re.compile(r"[A-Za-z0-9]+")

_URL_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,30}://)(?!git@)[^/\s'\"<>]{1,500}@")
_WEBHOOK = re.compile(
    r"""(?ix)\b(?P<head>
        hooks\.slack\.com/(?:services|workflows|triggers)/ | discord(?:app)?\.com/api/webhooks/
      | [\w.-]{0,60}webhook\.office\.com/ | outlook\.office\.com/webhook/ | hooks\.zapier\.com/hooks/
      | (?:open\.feishu\.cn|open\.larksuite\.com)/open-apis/bot/v2/hook/ | api\.telegram\.org/bot
      | oapi\.dingtalk\.com/robot/send\? | qyapi\.weixin\.qq\.com/cgi-bin/webhook/send\?
      | chat\.googleapis\.com/v1/spaces/ | maker\.ifttt\.com/trigger/
    )[^\s"'<>)\]},;]+"""
)
_SIGNATURE = re.compile(
    r"(?i)(?P<head>(?:(?<=[?&])|(?<![\w-]))"
    r"(?:sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid"
    r"|access_token|accountkey|sharedaccesskey)=)(?P<value>[^\s&;\"'<>]{8,})"
)
_SURE_FORMATS = re.compile(
    r"""-----BEGIN[A-Z ]{0,40}PRIVATE\ KEY(?:\ BLOCK)?-----.*?(?:-----END[A-Z ]{0,40}-----|\Z)
      | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
      | \bgh[pousr]_[A-Za-z0-9]{20,}
      | \bgithub_pat_\w{20,}
      | \bAIza[\w-]{30,}
      | \bdapi[0-9a-f]{32}\b
      | \bSG\.[\w-]{16,}\.[\w-]{16,}
      | \bya29\.[\w-]{20,}
      | \bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b
      | \bhv[sb]\.[\w-]{20,}
      | \bATATT[\w=-]{20,}
      | \bdckr_pat_[\w-]{20,}
      | (?<![\w-])xox[abeoprs]-[\w-]{10,}
      | (?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*""",
    re.VERBOSE | re.DOTALL,
)
_RANDOM_FORMATS = re.compile(
    r"""\bhf_[A-Za-z0-9]{16,}
      | (?<![\w-])(?:glpat|sk|rk|pypi|npm|dp|pplx|gsk|xai)[-_][\w-]{16,}
      | (?i:\bbearer[ \t]+[\w.~+/=-]{8,})""",
    re.VERBOSE,
)
"""Everyday names start like these too, so the rest must look random."""

_WORD = (
    r"(?<![\w.-])(?=[\w.-]{0,60}(?:pass|pwd|pw|secret|token|credential|key|pat|pin|auth|session|sig))"
    r"(?P<name>[\w.-]{1,100}+)"
)
_CLOSING = r"""(?:\\?["'])?[ \t]{0,20}\]?[ \t]{0,20}"""
"""What may stand between a name and its `=`, as in `os.environ["HF_TOKEN"] =` and `{"token": …`."""
_QUOTE = r"""(?P<quote>[rbf]{0,2}\\?(?P<mark>["']))"""
_VALUE = (
    rf"""(?P<value>{_QUOTE}(?:(?!(?P=mark))[^\n])*(?P=mark)|[^\s,;&"'`(){{}}\[\]\\，；。]{{1,4096}})"""
    r"(?P<call>[(\[])?"
)
_ASSIGNMENTS = (
    # a line of YAML, or of a diff of one: the value is the rest of the line
    re.compile(rf"(?im)^(?P<head>[ \t+-]{{0,40}}{_WORD}[ \t]*[:：][ \t]+)(?P<value>[^\s\"'{{\[|>&][^\n]*)$"),
    re.compile(rf"(?i)(?P<head>{_WORD}{_CLOSING}(?::=|=>|[:=：＝])[ \t]{{0,40}}){_VALUE}"),
    re.compile(rf"(?i)(?P<head>(?<!\S)(?=--?\w){_WORD}[ \t]{{1,20}})(?!-){_VALUE}"),
    # set_token("…") and setdefault("TOKEN", "…")
    re.compile(rf"(?i)(?P<head>{_WORD}\([ \t]{{0,20}})(?=[rbf]{{0,2}}\\?[\"']){_VALUE}"),
    re.compile(
        rf"(?i)(?P<head>\([ \t]{{0,20}}[\"']{_WORD}[\"'],[ \t]{{0,20}})(?=[rbf]{{0,2}}\\?[\"']){_VALUE}"
    ),
)
_LOOSE = re.compile(
    r"(?i)(?P<head>\b(?:(?:api|access)[ \t_-]?key|pass(?:code|word|wd|phrase)|pwd|token|pat|pin|secret)"
    r"(?:[ \t]{1,5}(?:is|was))?[ \t]{0,5}(?:[:=：＝]|(?<=[ \t]))[ \t]{0,5})"
    r"(?P<value>[^\s,;\"'`(){}\[\]，；。*]{4,})"
)
"""`the api key abc…`: nothing but a space says that a value follows, so it must look random."""
_CHINESE = re.compile(
    r"""(?P<head>(?:密码|口令|密钥|令牌|暗号|密碼|金鑰)\\?["'”」]?[ \t]{0,5}(?:是|为|為)?[ \t]{0,5}"""
    r"""(?P<sure>[:：=＝])?[ \t]{0,5}["'“「]?)(?P<value>[^\s,;"'”」，；。、*]+)"""
)
_COMMANDS = (
    # curl -u user:password
    re.compile(
        r"(?P<head>\b(?:curl|wget|https?)\b[^\n]{0,300}?[ \t](?:-u|--user|--proxy-user|-U)[ \t=]{0,5}[\"']?"
        r"[^\s:\"']{1,100}:)(?P<value>[^\s\"']+)"
    ),
    # mysql -ppassword, redis-cli -a password
    re.compile(
        r"(?P<head>\b(?:mysql\w{0,10}|mariadb[\w-]{0,10}|sshpass)\b[^\n]{0,300}?[ \t]-p[ \t]?[\"']?)"
        r"(?P<value>[^\s\"'-][^\s\"']*)"
    ),
    re.compile(
        r"(?P<head>\b(?:redis-cli|mongosh?)\b[^\n]{0,300}?[ \t](?:-a|-p)[ \t]{1,5}[\"']?)"
        r"(?P<value>[^\s\"'-][^\s\"']*)"
    ),
)
_AUTHORIZATION = re.compile(
    r"""(?i)(?P<head>\b(?:proxy-)?authorization\\?["']?[ \t]{0,5}\]?[ \t]{0,5}"""
    r"""[:=：,][ \t]{0,5}[rbf]{0,2}\\?["']?"""
    r"""(?:(?:basic|bearer|token|digest|apikey|key)[ \t=]{1,5})?)(?P<value>[^\s"',;)}\]\\*]{6,})"""
)
_COOKIE = re.compile(
    r"""(?i)(?P<head>\b(?:set-)?cookies?\\?["']?[ \t]{0,5}[:=：][ \t]{0,5}\\?["']?)"""
    r"""(?P<value>[\w.-]{1,100}=[^\s"']+(?:;[ \t]{0,5}[\w.-]{1,100}=[^\s"']+)*)"""
)
_CODE = re.compile(
    r"(?:self|cls|os|args|config|settings|tokenizer|model|mlflow)\.[\w.]+"
    r"|-?[\d.]+|true|false|none|null|str|int|bool|bytes|float|any|\$\{?\w+\}?|<\w+>|\*+",
    re.IGNORECASE,
)
_PIN = re.compile(r"[0-9]{4,}")


def scrub(value: Any) -> Any:
    """`value` with its secrets hidden; texts, lists and mappings at any depth, all else unchanged.

    A text that stands under the name of a secret is hidden whole: for facts of others, such as variables.
    The settings of our own schema are no such facts: there a task may be called `token`.
    """
    if isinstance(value, Mapping):
        return {key: _scrub_named(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item) for item in value]
    return scrub_text(value) if isinstance(value, str) else value


def scrub_values(value: Any, hide: Callable[[str], str] | None = None) -> Any:
    """Each text in `value` at any depth as `hide` (scrub_text) shows it, whatever it is called."""
    hide = hide or scrub_text
    if isinstance(value, Mapping):
        return {key: scrub_values(item, hide) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_values(item, hide) for item in value]
    return hide(value) if isinstance(value, str) else value


def scrub_name(text: str) -> str:
    """A name or path without passwords in URLs, signatures, keys by their format and variables that look so.

    Everyday words stay, since it must be found again: `sk-learn-baseline`, `data/token=cls/train.csv`.
    """
    return _scrub_formats(text, [secret for secret in _environment_secrets() if not is_everyday(secret)])


def scrub_text(text: str) -> str:
    """Free text without all that `scrub_name` hides, and what words and commands give away as a secret."""
    text = _scrub_formats(text, _environment_secrets())
    text = _AUTHORIZATION.sub(_hide, text)
    text = _COOKIE.sub(_hide, text)
    for command in _COMMANDS:
        text = command.sub(_hide_unless_number, text)
    for assignment in _ASSIGNMENTS:
        text = _hide_assignments(assignment, text)
    text = _CHINESE.sub(_hide_chinese, text)
    return _LOOSE.sub(lambda match: _hide(match) if _has_random_piece(match["value"], 6) else match[0], text)


def is_secret_name(name: str) -> bool:
    """Whether a setting or variable of this name holds a secret: `hub_token` does, `pad_token` does not."""
    parts = [part.lower() for part in _PART.findall(name)]
    if any(_SECRET_WORD.fullmatch(part) for part in parts):
        return not any(_TEXT_WORD.fullmatch(part) for part in parts)
    return any(key == "key" and _KEY_OWNER.fullmatch(owner) for owner, key in pairwise(parts))


def is_everyday(text: str) -> bool:
    """Whether all of it are words and numbers, as in `sk-slovak-reviews-2024`."""
    return all(_PLAIN.fullmatch(piece) for piece in _PIECE.findall(text))


def _scrub_formats(text: str, variables: list[str]) -> str:
    for secret in variables:
        text = text.replace(secret, HIDDEN)
    text = _URL_USER.sub(rf"\g<1>{HIDDEN}@", text)
    text = _WEBHOOK.sub(_hide, text)
    text = _SURE_FORMATS.sub(HIDDEN, text)
    text = _RANDOM_FORMATS.sub(lambda match: HIDDEN if _has_random_piece(match[0]) else match[0], text)
    return _SIGNATURE.sub(lambda match: match[0] if is_everyday(match["value"]) else _hide(match), text)


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
        and (is_secret_name(name) or name.upper().endswith(("_KEY", "_PAT")))
    }
    return sorted(values, key=len, reverse=True)


def _has_random_piece(text: str, length: int = MIN_RANDOM_LENGTH) -> bool:
    """Whether letters and digits in no order of words stand in it; short ones must have a digit."""
    pieces = [piece for piece in _PIECE.findall(text) if len(piece) >= length]
    return any(
        not _PLAIN.fullmatch(piece) and (len(piece) >= MIN_RANDOM_LENGTH or re.search("[0-9]", piece))
        for piece in pieces
    )


def _hide(match: re.Match[str]) -> str:
    return f"{match['head']}{HIDDEN}"


def _hide_unless_number(match: re.Match[str]) -> str:
    return match[0] if match["value"].isdecimal() else _hide(match)


def _hide_chinese(match: re.Match[str]) -> str:
    value = match["value"]
    is_mixed = re.search("[A-Za-z]", value) and re.search("[0-9]", value) and len(value) >= 6
    return _hide(match) if match["sure"] or is_mixed else match[0]


def _hide_assignments(pattern: re.Pattern[str], text: str) -> str:
    """Values of secrets hidden; what stands in the value of another name is looked at by itself."""
    shown, position = [], 0
    while match := pattern.search(text, position):
        if _is_secret(match):
            opening, call = match.groupdict().get("quote") or "", match.groupdict().get("call") or ""
            end, value = match.end(), f"{opening}{HIDDEN}{opening.lstrip('rbfRBF')}{call}"
            shown.append(f"{text[position : match.start()]}{match['head']}{value}")
        else:
            end = match.end("name")
            shown.append(text[position:end])
        position = end
    return "".join(shown) + text[position:]


def _is_secret(match: re.Match[str]) -> bool:
    groups, name = match.groupdict(), match["name"]
    opening = groups.get("quote") or ""
    content = match["value"].removeprefix(opening).removesuffix(opening.lstrip("rbfRBF")).strip()
    parts = [part.lower() for part in _PART.findall(name)]
    if not is_secret_name(name):
        is_short = bool(parts) and parts[-1] in _SHORT_NAMES
        return is_short and bool(_PIN.fullmatch(content) or _has_random_piece(content, 6))
    if not content or opening:
        return bool(content)
    if any(re.fullmatch(_PASSWORD, part) for part in parts) and _PIN.fullmatch(content):
        return True
    return not (groups.get("call") or _CODE.fullmatch(content) or _TEXT_WORD.fullmatch(content))
