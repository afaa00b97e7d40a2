"""What a run is: the schema, and how a YAML file becomes a typed config."""

from loratrack.config.files import flat, load, plain, save, sha256
from loratrack.config.layers import project_root
from loratrack.config.schema import SINGLE_TASK, RunConfig

__all__ = ["SINGLE_TASK", "RunConfig", "flat", "load", "plain", "project_root", "save", "sha256"]
