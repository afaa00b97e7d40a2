"""Bundles and bases for tests: one with weights drawn at random, one that brings code.

Imported by `tests/conftest.py`, before any library may be.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from loratrack.config import RunConfig


def save_untrained(config: RunConfig, folder: Path) -> Path:
    """A bundle in `folder`, with weights drawn at random and the logits they give."""
    import torch

    from loratrack.model import bundle, weights
    from loratrack.training import session
    from loratrack.training.log import ListLog

    prepared = session.set_up(config, lambda text: None)
    member = session.enter(prepared, config, ListLog(), folder)
    for parameter in prepared.network.parameters(member.name):
        torch.nn.init.normal_(parameter, std=0.3)
    weights.save(prepared.network, member.name, member.folder)
    labels = prepared.dataset.label_map.to_dict()
    probe = prepared.cohort.objective.probe(prepared.network, member.name)
    bundle.save(folder / "bundle", member.folder, prepared.network, prepared.base, config, labels, probe)
    return folder / "bundle"


@dataclass(frozen=True)
class CodedBase:
    """The sample's base with an architecture and a tokenizer that come as code in its folder."""

    folder: Path

    def has_run(self) -> bool:
        """Whether its code ran since the last question; the process forgets that it knows the code."""
        for name in [name for name in sys.modules if name.startswith("transformers_modules.")]:
            del sys.modules[name]
        mark = self.folder.with_suffix(".ran")
        ran = mark.exists()
        mark.unlink(missing_ok=True)
        return ran


@pytest.fixture
def coded_base(sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CodedBase:
    """Its code leaves a mark beside the folder when it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    base = CodedBase(Path(shutil.copytree(sample.base, tmp_path / "coded")))
    mark = f"from pathlib import Path\nPath({str(base.folder.with_suffix('.ran'))!r}).touch()\n"
    (base.folder / "acme.py").write_text(
        f"{mark}from transformers import BertConfig, BertModel\n"
        "class AcmeConfig(BertConfig):\n    model_type = 'acme'\n"
        "class AcmeModel(BertModel):\n    config_class = AcmeConfig\n"
    )
    (base.folder / "words.py").write_text(
        f"{mark}from transformers import BertTokenizer\nclass Words(BertTokenizer):\n    pass\n"
    )
    code = {"AutoConfig": "acme.AcmeConfig", "AutoModel": "acme.AcmeModel"}
    change_json(base.folder / "config.json", model_type="acme", auto_map=code)
    change_json(base.folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "words.Words"]})
    return base


def change_json(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | settings), encoding="utf-8")
