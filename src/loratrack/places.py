"""Where our project, its store and the cache lie; light, because every MLflow process imports it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import platformdirs

PROJECT_FILE = "MLproject"
STORE = "mlruns"
DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
BUNDLE = "bundle.json"
"""The run's artifact that says what its model is made of."""
PYFUNC = "pyfunc"
"""The run's artifact that MLflow can load, serve and register."""
CONFIG_COPY = "config_copy.yaml"
"""The frozen settings of a run; this file alone gives the run again."""
LABEL_MAP = "label_map.json"
ADAPTER, FULL = "lora_adapter", "model"
"""A model's weights: an adapter as PEFT writes it, or the whole network."""
HEADS = "heads.safetensors"
THRESHOLDS = "thresholds.json"
PROBE = "probe.safetensors"
METRICS = "metrics.json"
ANSWERS = "answers.json"
"""How often each label was taken for which, from which the pictures of a run can be drawn again."""
CLASS_SCORES = "class_scores.csv"
ENVIRONMENT = "env_info.json"
DATA_REPORT = "data_report.json"
NOTICES = "notices.txt"
PLOTS = "plots"
OUR_NAME = re.compile(r"^name:\s*[\"']?loratrack[\"']?\s*(#.*)?$", re.MULTILINE)


def our_project(start: Path | None = None) -> Path | None:
    """The nearest folder with an MLproject at or above `start` (default: the current one), if it is ours."""
    try:
        here = Path.cwd() if start is None else start.absolute()
        for folder in (here, *here.parents):
            file = folder / PROJECT_FILE
            if file.is_file():
                return folder if OUR_NAME.search(file.read_text("utf-8", "replace")) else None
    except OSError:  # a current folder that is gone, a file that is not ours to read
        pass
    return None


def database_uri(folder: Path) -> str:
    """MLflow's URI of the database in `folder`; SQLAlchemy takes the path as it is, unquoted."""
    return f"sqlite:///{folder / DATABASE}"


def artifact_folder(uri: str) -> Path | None:
    """The local folder of a URI of artifacts; as in MLflow a bare path is quoted too. None: elsewhere."""
    parts = urlparse(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path if parts.scheme else uri))


def cache_folder() -> Path:
    """What can be made again lies here; LORATRACK_CACHE moves it, and `~` in it is the home folder."""
    named = os.environ.get("LORATRACK_CACHE") or platformdirs.user_cache_dir("loratrack")
    return Path(named).expanduser().absolute()
