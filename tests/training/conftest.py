"""The fixtures of `tests/cohorts.py`."""

from tests.cohorts import config_of, dataset, new_cohort, seat  # noqa: F401
