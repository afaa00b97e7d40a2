"""Whose code may run. The one who trains or loads says it; a model never says it of itself.

False           nobody's: a base whose architecture transformers knows is loaded without its code
True            of any base: what `model.trust_remote_code` says for the training whose config holds it
{sha256, …}     of these bases alone: what the one who loads a model says, by option or by variable
"""

from __future__ import annotations

import os
import re

from loratrack.errors import UserError

OPTION = "--trust-remote-code"
VARIABLE = "LORATRACK_TRUST_REMOTE_CODE"
SHA256 = re.compile(r"[0-9a-f]{64}")

Trust = bool | frozenset[str]


def covers(trust: Trust, sha256: str) -> bool:
    return trust if isinstance(trust, bool) else sha256 in trust


def said_by_loader(words: str | None) -> frozenset[str]:
    """The bases that the option (or argument) `words` and the environment name, separated by commas."""
    trusted = set()
    for place, text in ((OPTION, words), (VARIABLE, os.environ.get(VARIABLE))):
        for sha256 in filter(None, (part.strip().lower() for part in (text or "").split(","))):
            if not SHA256.fullmatch(sha256):
                raise UserError(
                    f"{place}: must be the sha256 of a base, 64 hex digits, got {sha256!r}; the refusal of a"
                    " model that brings code prints it"
                )
            trusted.add(sha256)
    return frozenset(trusted)


def refusal(trust: Trust, name: str, sha256: str) -> str:
    """What to do about the code of this base, for the one who trains (bool) or loads."""
    if isinstance(trust, bool):
        return f"read the code of {name}, and if you trust it --set model.trust_remote_code=true"
    return (
        f"read the code of {name}, and if you trust it give {OPTION} {sha256}"
        f" (in Python trust_remote_code={sha256!r}, for MLflow's server {VARIABLE}={sha256})"
    )
