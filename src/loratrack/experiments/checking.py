"""What is wrong with an experiment, told at once and before anything heavy is opened.

corpus = check(config)            # UserError: all problems of the data and of the base
run(config, watcher, corpus)      # which does not read the files again

Neither MLflow nor torch is imported here: a wrong label costs less than a second, and makes no run.
"""

from __future__ import annotations

from loratrack import data
from loratrack.bases import base as bases
from loratrack.config import RunConfig
from loratrack.config.sweep import Choice, SweepConfig
from loratrack.data import Corpus
from loratrack.errors import BaseNotFoundError, DataError, UserError

BASE = "model.arch"


def check(config: RunConfig) -> Corpus:
    """What the data files hold; one UserError reports all problems of the data and of the base."""
    faults: list[UserError] = []
    try:
        corpus = data.read(config)
    except DataError as error:
        faults.append(error)
    for arch in bases_of(config):
        try:
            bases.check(arch)
        except BaseNotFoundError as error:
            faults.append(error)
    if not faults:
        if len(bases_of(config)) == 1:  # of several each trial asks for its own, and fails alone
            bases.fetch(*bases_of(config), trust=config.model.trust_remote_code)
        return corpus
    raise faults[0] if len(faults) == 1 else UserError("\n".join(map(str, faults)))


def bases_of(config: RunConfig) -> tuple[str, ...]:
    """What `model.arch` may be: the choices of a sweep that varies it."""
    space = config.sweep.space.get(BASE) if isinstance(config, SweepConfig) else None
    return tuple(map(str, space.choice)) if isinstance(space, Choice) else (config.model.arch,)
