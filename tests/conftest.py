"""What all tests share: no network, one thread, a store and a cache of their own, a copy of the project."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import bundles
from tests.bundles import coded_base  # noqa: F401
from tests.stores import (  # noqa: F401
    any_store_of_runs,
    client,
    empty_database,
    filled_postgresql,
    filled_server,
    filled_sqlite,
    postgresql,
    server,
    store_of_runs,
    tiny_project,
)

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    ".venv",
    ".git",
    "mlruns",
    "build",
    "dist",
    "tests",
    "docs",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
)

SESSION = tempfile.TemporaryDirectory(prefix="loratrack-tests-", ignore_cleanup_errors=True)
"""Made before the first test module is imported: libraries read their settings when imported."""

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRACKING_URI": f"sqlite:///{SESSION.name}/mlruns/mlflow.db",
    "LORATRACK_CACHE": f"{SESSION.name}/cache",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",  # two test processes run side by side, and threads that wait spin
    "MKL_NUM_THREADS": "1",
}
os.environ.pop("COLUMNS", None)  # xdist gives its processes the width of the terminal


@dataclass(frozen=True)
class Project:
    """A copy of the project in `folder`, and what a user's shell there knows."""

    folder: Path
    environment: dict[str, str]

    @property
    def store(self) -> Path:
        return self.folder / "mlruns"

    def start(self, *command: str, below: str = ".") -> subprocess.Popen[str]:
        """`command` started in the folder `below` the project's, in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder / below,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str, below: str = ".") -> str:
        """What `command` prints; it must succeed."""
        process = self.start(*command, below=below)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output


@pytest.fixture
def project(new_project: Callable[[], Project]) -> Project:
    return new_project()


@pytest.fixture(scope="session")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    """Makes copies of the project, for fixtures of any scope."""

    def new() -> Project:
        folder = tmp_path_factory.mktemp("copy") / "some project 项目"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        return Project(folder, _shell())

    return new


def _shell() -> dict[str, str]:
    """This environment without any conda, MLflow's settings and pytest's mark, which MLflow heeds."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "_MLFLOW", "CONDA", "LORATRACK_PYTHON", "COV_", "PYTEST_"))
    }
    folders = [folder for folder in kept["PATH"].split(":") if not Path(folder, "conda").exists()]
    return kept | {"PATH": ":".join([str(Path(sys.executable).parent), *folders])}


SIGNS = {
    "risk": {"低风险": "calm", "中风险": "mild", "高风险": "loud"},
    "adopt": {"yes": "take", "no": "leave"},
    "channel": {"web": "screen", "shop": "counter", "007": "secret"},
}
"""The tasks of the sample: each label has a word that gives it away."""
FILLERS = ("the", "a", "note", "of", "day", "客", "户", *(f"n{number}" for number in range(40)))


@dataclass(frozen=True)
class Sample:
    """Data that can be learned in seconds, a base to learn it on, and a config for two labels."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def config(self) -> Path:
        return self.folder / "dual.yaml"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    made = Sample(tmp_path_factory.mktemp("sample") / "projects" / "tiny")
    made.folder.mkdir(parents=True)
    _write_rows(made.folder / "train.csv", 160, seed=1)
    _write_rows(made.folder / "test.csv", 40, seed=2)
    _write_base(made.base)
    labels = {task: list(SIGNS[task]) for task in ("risk", "adopt")}
    content = {
        "exp_id": "dual",
        "task_type": "double_cls",
        "register": "tiny",  # by its name, for what is trained in a moment may have learned nothing
        "data": {
            "raw_data_path": "train.csv",
            "test_path": "test.csv",
            "label_subset": labels,
            "max_len": 32,
        },
        "model": {"arch": str(made.base), "lora": {"rank": 4, "target_modules": "all-linear"}},
        "train": {"batch_size": 16, "lr": 0.02, "epochs": 2, "precision": "fp32", "layout": "padded"},
    }
    made.config.write_text(json.dumps(content, ensure_ascii=False), "utf-8")  # YAML reads JSON
    return made


@pytest.fixture(scope="session")
def untrained(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as a run leaves it, with weights drawn at random."""
    from loratrack.config import load

    return bundles.save_untrained(load(sample.config), tmp_path_factory.mktemp("untrained"))


def _write_rows(file: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", *SIGNS])
        for _ in range(count):
            labels = {task: draw.choice(list(signs)) for task, signs in SIGNS.items()}
            words = [SIGNS[task][label] for task, label in labels.items()]
            words += draw.choices(FILLERS, k=draw.randint(1, 9))
            draw.shuffle(words)
            writer.writerow([" ".join(words), *labels.values()])


def _write_base(folder: Path) -> None:
    from transformers import BertConfig, BertModel, set_seed

    words = [word for signs in SIGNS.values() for word in signs.values()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *FILLERS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    set_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


@pytest.fixture(scope="session", autouse=True)
def _session_folder() -> Iterator[None]:
    yield
    SESSION.cleanup()


@pytest.fixture
def no_cjk_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no font beside those that come with matplotlib."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    own = [font for font in manager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(manager, "ttflist", own)
