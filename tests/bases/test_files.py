"""The digests of a base: what they cover, and that remembering them never gives a wrong one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import transformers

from loratrack.bases.files import (
    file_sha256,
    network_sha256,
    tokenizer_choice,
    tokenizer_files,
    tokenizer_sha256,
)
from loratrack.places import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORATRACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entries() -> list[Path]:
    return sorted((cache_folder() / "digests").iterdir())


def test_the_digest_is_the_one_that_sha256sum_gives(tiny: Path) -> None:
    names = ("config.json", "model.safetensors")
    lines = [f"{sha256((tiny / name).read_bytes())}  {name}\n" for name in names]
    assert network_sha256(tiny) == sha256("".join(lines).encode())


@pytest.mark.parametrize(
    ("name", "is_network", "is_tokenizer"),
    [
        ("config.json", True, False),
        ("model.safetensors", True, False),
        ("vocab.txt", False, True),
        ("tokenizer_config.json", False, True),
        ("README.md", False, False),
    ],
)
def test_a_changed_byte_changes_the_digest_of_its_side_alone(
    tiny: Path, name: str, is_network: bool, is_tokenizer: bool
) -> None:
    before = network_sha256(tiny), tokenizer_sha256(tiny)
    with (tiny / name).open("ab") as file:
        file.write(b" ")
    assert (network_sha256(tiny) != before[0], tokenizer_sha256(tiny) != before[1]) == (
        is_network,
        is_tokenizer,
    )


def test_each_file_that_a_tokenizer_of_transformers_reads_is_one_of_its_files(tmp_path: Path) -> None:
    sources = Path(transformers.__file__).parent.glob("models/*/tokenization*.py")
    blocks = re.findall(r"^VOCAB_FILES_NAMES = \{(.*?)\}", "\n".join(map(read_text, sources)), re.S | re.M)
    names = {name for block in blocks for name in re.findall(r': "([^"]+)"', block)}
    assert len(names) > 20
    for name in names:
        (tmp_path / name).write_text("…")
    assert set(tokenizer_files(tmp_path)) == names


def test_the_code_of_a_tokenizer_is_part_of_it(tiny: Path) -> None:
    code = tiny / "tokenization.py"
    code.write_text("one = 1")
    config = json.loads((tiny / "tokenizer_config.json").read_text())
    assert "tokenization.py" not in tokenizer_files(tiny)
    config["auto_map"] = {"AutoTokenizer": ["tokenization.Tokenizer", None]}
    (tiny / "tokenizer_config.json").write_text(json.dumps(config))
    before = tokenizer_sha256(tiny)
    code.write_text("one = 2")
    assert tokenizer_sha256(tiny) != before


def test_the_architecture_is_a_fact_of_the_tokenizer(tiny: Path) -> None:
    assert tokenizer_choice(tiny)["model_type"] == "bert"


def read_text(path: Path) -> str:
    return path.read_text("utf-8")


def test_a_copy_elsewhere_has_the_same_digests(tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    assert (network_sha256(copy), tokenizer_sha256(copy)) == (network_sha256(tiny), tokenizer_sha256(tiny))


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    assert file_sha256(file) == sha256(b"weights")
    (entry,) = entries()
    entry.write_text("0" * 64)  # believed, so the file was not read
    assert file_sha256(file) == "0" * 64


def test_a_file_of_the_same_size_and_date_is_read_again(tmp_path: Path) -> None:
    file, other = tmp_path / "weights", tmp_path / "other"
    file.write_bytes(b"weights")
    file_sha256(file)
    other.write_bytes(b"WEIGHTS")
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.rename(file)
    assert file_sha256(file) == sha256(b"WEIGHTS")


@pytest.mark.parametrize("rubbish", ["", "half a dig", "\N{SNOWMAN}"])
def test_a_spoiled_entry_is_made_anew(tmp_path: Path, rubbish: str) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    file_sha256(file)
    (entry,) = entries()
    entry.write_text(rubbish, encoding="utf-8")
    assert file_sha256(file) == sha256(b"weights")
    assert entry.read_text() == sha256(b"weights")


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    monkeypatch.setenv("LORATRACK_CACHE", str(file))
    assert file_sha256(file) == sha256(b"weights")
