"""A bundle that keeps its probe: a fresh process finds the logits of the training, or the fault."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loratrack.data import encode_texts
from loratrack.errors import UserError
from loratrack.model import probe as probes
from loratrack.model.probe import Probe
from loratrack.places import PROBE
from loratrack.serving.classifier import Classifier, check_probe

CHECK = "import sys; from pathlib import Path; from loratrack.serving.classifier import check_probe; \
check_probe(Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def probe(untrained: Path) -> Probe:
    classifier = Classifier(untrained)
    rows = encode_texts([["calm take note", "loud leave", "mild day"]], classifier._tokenizer, 32)
    return probes.probe_of(rows, classifier.logits(rows), torch.device("cpu"))


@pytest.fixture
def copy(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "copy"))


def keep(probe: Probe, folder: Path) -> None:
    """As if the bundle had been saved with this probe."""
    probes.save(probe, folder / PROBE)
    content = json.loads((folder / "bundle.json").read_text("utf-8"))
    content["files"][PROBE] = hashlib.sha256((folder / PROBE).read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(content), "utf-8")


def off_by(probe: Probe, difference: float, computed_on: str) -> Probe:
    return Probe(probe.tokens, probe.offsets, probe.token_types, probe.logits + difference, computed_on)


@pytest.mark.slow
def test_a_fresh_process_elsewhere_finds_the_same_bits(copy: Path, probe: Probe, tmp_path: Path) -> None:
    keep(probe, copy)
    subprocess.run([sys.executable, "-c", CHECK, str(copy)], check=True, cwd=tmp_path)


def test_where_it_was_computed_a_single_bit_counts(copy: Path, probe: Probe) -> None:
    keep(off_by(probe, 1e-6, probe.computed_on), copy)
    with pytest.raises(UserError, match=r"does not give the logits of the trained one .*allowed 0\)"):
        check_probe(copy)


def test_computed_elsewhere_it_must_be_close(copy: Path, probe: Probe) -> None:
    keep(off_by(probe, 1e-6, "a GPU, torch 1.0"), copy)
    check_probe(copy)
    keep(off_by(probe, 0.5, "a GPU, torch 1.0"), copy)
    with pytest.raises(UserError, match=r"does not give the logits of the trained one \(difference 0\.5"):
        check_probe(copy)


def test_logits_of_other_tasks_are_refused(copy: Path, probe: Probe) -> None:
    fewer = Probe(probe.tokens, probe.offsets, None, probe.logits[:, :2], probe.computed_on)
    keep(fewer, copy)
    with pytest.raises(UserError, match=r"gives \[3, 5\] logits, the trained one gave \[3, 2\]"):
        check_probe(copy)


def test_a_changed_probe_is_refused(copy: Path, probe: Probe) -> None:
    keep(probe, copy)
    probes.save(off_by(probe, 1.0, probe.computed_on), copy / PROBE)
    with pytest.raises(UserError, match=rf"{PROBE}: changed since the model was saved"):
        check_probe(copy)


def test_a_bundle_without_a_probe_cannot_be_checked(copy: Path) -> None:
    (copy / PROBE).unlink()
    content = json.loads((copy / "bundle.json").read_text("utf-8"))
    del content["files"][PROBE]
    (copy / "bundle.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match=rf"has no {PROBE}"):
        check_probe(copy)


def test_token_types_come_back(probe: Probe, tmp_path: Path) -> None:
    types = probe.tokens.astype("uint8") % 2
    probes.save(Probe(probe.tokens, probe.offsets, types, probe.logits, probe.computed_on), tmp_path / "file")
    back = probes.load(tmp_path / "file")
    assert (back.tokens == probe.tokens).all()
    assert (back.offsets == probe.offsets).all()
    assert back.token_types is not None
    assert (back.token_types == types).all()
    assert torch.equal(back.logits, probe.logits)
