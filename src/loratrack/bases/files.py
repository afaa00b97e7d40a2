"""The files of a base: which there must be, what is wrong with them, and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from loratrack.bases.trust import Trust
from loratrack.disk import read_json, sha256_of, write_text
from loratrack.errors import did_you_mean, quoted
from loratrack.places import cache_folder

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG, ADAPTER_CONFIG = "tokenizer_config.json", "adapter_config.json"
NETWORK = (CONFIG, WEIGHTS, INDEX, "model*-of-*.safetensors")
VOCABULARY = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken")
TOKENIZER = (
    *VOCABULARY,
    "tokenizer.*.json",  # of a version of transformers, when tokenizer_config.json names it
    "merges.txt",
    "bpe.codes",
    "*.spm",
    "*.tokenizer",
    "dict.txt",
    "*vocab*.json",
    "normalizer.json",
    "emoji.json",
    "byte_maps.json",
    "word_shape.json",
    "word_pronunciation.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
CODE = ("*.py",)
LIMITS = {r"(layers?|groups?|blocks?|group_num|per_block|depths?)$": 1000, r"^num_labels$": 1_000_000}
"""Numbers in config.json, at any depth, that transformers would build for hours with."""
MAX_LIST = 1000
"""Numbers in a list, which may be one for each layer."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def unreadable(folder: Path) -> list[str]:
    """Files of a base that no program can read to their end, or at all: named pipes, links to nowhere."""
    odd = [path.name for path in folder.iterdir() if not path.is_file() and not path.is_dir()]
    return _matching(odd, (*NETWORK, *TOKENIZER, *CODE, ADAPTER_CONFIG))


def file_faults(place: str, names: Sequence[str]) -> list[str]:
    """What the files at `place`, a folder or a hub name, lack."""
    if ADAPTER_CONFIG in names and CONFIG not in names:
        return ["holds a LoRA adapter, not a base; name the base that the adapter was made for"]
    faults = []
    if CONFIG not in names:
        faults.append(f"{CONFIG} is missing; a base is a folder as `save_pretrained` writes it")
    if WEIGHTS not in names and INDEX not in names:
        faults.append(_weights_fault(place, names))
    if not _matching(names, VOCABULARY):
        faults.append(f"the tokenizer is missing; one of {', '.join(VOCABULARY)} must be there")
    return faults


def config_faults(file: Path, trust: Trust) -> list[str]:
    """Why transformers could not make a network of this config.json, or not without foreign code.

    Which base may run code is asked where its sha256 is known; here, only whether some may.
    """
    try:
        config = read_json(file)
        code, kind = config.get("auto_map"), config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        return [f"{CONFIG} is not a JSON mapping: {error}"]
    if faults := [
        f"{CONFIG}: {name} must be at most {limit:,}, got {value:,}"
        for name, value in _numbers(config)
        for pattern, limit in LIMITS.items()
        if re.search(pattern, name) and value > limit
    ]:
        return faults
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES as KNOWN

    if (isinstance(kind, str) and kind in KNOWN) or (code and trust is not False):
        return []
    if code:
        return [
            f"brings its own code for {kind!r}, which transformers does not know; read that code, and if you"
            " trust it --set model.trust_remote_code=true"
        ]
    hint = did_you_mean(str(kind), KNOWN)
    return [f"{CONFIG}: model_type must be an architecture that transformers knows, got {kind!r}{hint}"]


def _numbers(content: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Each integer with the name it stands under; a long list counts as a number of layers."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, str(key))
    elif isinstance(content, list):
        if len(content) > MAX_LIST and all(isinstance(value, int) for value in content):
            yield f"length of {name}, layers", len(content)
        for value in content:
            yield from _numbers(value, name)
    elif isinstance(content, int):
        yield name, content


def code_named(folder: Path) -> list[str]:
    """The classes that config.json and tokenizer_config.json call for, as `module.Class`."""
    named: list[str] = []
    for file in (folder / CONFIG, folder / TOKENIZER_CONFIG):
        content = read_json(file) if file.is_file() else {}
        code = content.get("auto_map") or {}
        values = code.values() if isinstance(code, dict) else [code]
        for value in values:
            named += [str(name) for name in (value if isinstance(value, list) else [value]) if name]
    return named


def tokenizer_config_faults(folder: Path) -> list[str]:
    """Why the settings of the tokenizer cannot be read.

    The tokenizers library prints a name that it does not know by itself, past our door to the terminal.
    """
    faults = []
    for name in (TOKENIZER_CONFIG, "special_tokens_map.json"):
        try:
            content = read_json(folder / name) if (folder / name).is_file() else {}
        except (OSError, ValueError) as error:
            faults.append(f"{name} is not a JSON mapping: {error}")
            continue
        if not isinstance(content, dict):
            faults.append(f"{name} is not a JSON mapping")
        elif odd := [key for key in _names(content) if not key.isprintable()]:
            faults.append(f"{name}: names must be printable, got {quoted(odd[0])}")
    return faults


def _names(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key)
            yield from _names(value)
    elif isinstance(content, list):
        for value in content:
            yield from _names(value)


def code_faults(folder: Path) -> list[str]:
    """Code must lie beside config.json: there the base's sha256 covers it.

    Code of another repository would be fetched at every load, whatever it has become by then.
    """
    named, names = code_named(folder), names_in(folder)
    foreign = sorted({name.split("--")[0] for name in named if "--" in name})
    own = {name.split(".")[0] + ".py" for name in named if "--" not in name}
    faults = [
        f"its code lies elsewhere, in {name}; copy that code beside {CONFIG} and take '{name}--' out of its"
        " auto_map"
        for name in foreign
    ]
    faults += [
        f"{name}: auto_map names this code, and it must lie beside {CONFIG}"
        for name in sorted(own - {*names})
    ]
    return faults


def shard_faults(folder: Path) -> list[str]:
    try:
        shards = _shards(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{INDEX} is no list of weight files; fetch it again"]
    if foreign := [name for name in shards if Path(name).name != name]:
        return [f"{INDEX}: weight files must lie beside it, got {foreign[0]!r}"]
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        return [f"{len(missing)} of {len(shards)} weight files missing, the first is {missing[0]}"]
    return []


def weight_files(folder: Path) -> list[Path]:
    return [folder / name for name in _shards(folder) or [WEIGHTS]]


def network_sha256(folder: Path) -> str:
    """What `sha256sum config.json WEIGHTS… | sha256sum` prints; with the code, where it is called for."""
    shards = _shards(folder)
    return _sha256_of_all(folder, [CONFIG, *([INDEX, *shards] if shards else [WEIGHTS]), *code_files(folder)])


def code_files(folder: Path) -> list[str]:
    return _matching(names_in(folder), CODE) if code_named(folder) else []


def tokenizer_files(folder: Path) -> list[str]:
    """With the code that the tokenizer's config names."""
    names = names_in(folder)
    brings_code = TOKENIZER_CONFIG in names and "auto_map" in _mapping_in(folder / TOKENIZER_CONFIG)
    return _matching(names, (*TOKENIZER, *CODE) if brings_code else TOKENIZER)


def tokenizer_sha256(folder: Path) -> str:
    return _sha256_of_all(folder, tokenizer_files(folder))


def tokenizer_choice(folder: Path) -> dict[str, object]:
    """What `config.json` says of the tokenizer: transformers chooses and mends some by these."""
    config = _mapping_in(folder / CONFIG)
    return {name: config.get(name) for name in ("model_type", "tokenizer_class", "transformers_version")}


def file_sha256(path: Path) -> str:
    """The digest of a file, remembered in the user's cache so that a large one is read once."""
    path = path.resolve()
    entry = cache_folder() / "digests" / hashlib.sha256(_fact(path).encode()).hexdigest()
    known = entry.read_text(encoding="ascii", errors="replace") if entry.is_file() else ""
    if len(known) == 64:
        return known
    digest = sha256_of(path)
    with contextlib.suppress(OSError):  # a read-only or full cache costs time, not the run
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, digest)
    return digest


def _fact(path: Path) -> str:
    # The change time too: `cp -p` puts another file of the same size and date in a file's place.
    stat = path.stat()
    return f"{path}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"


def _sha256_of_all(folder: Path, names: Iterable[str]) -> str:
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in sorted(names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _mapping_in(file: Path) -> dict[str, Any]:
    """The JSON mapping in a file; an empty one where it holds none, which the loading tells."""
    with contextlib.suppress(ValueError):
        content = read_json(file)
        if isinstance(content, dict):
            return content
    return {}


def _shards(folder: Path) -> list[str]:
    """The files in the index; none where there is the one file that transformers prefers to it."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return []
    return sorted(set(map(str, read_json(folder / INDEX)["weight_map"].values())))


def _weights_fault(place: str, names: Sequence[str]) -> str:
    pickles = [name for name in _matching(names, PICKLES) if name != "training_args.bin"]
    if not pickles:
        return f"{WEIGHTS} is missing"
    return (
        f"has its weights as {', '.join(pickles)} only, and a pickle can run any code; if you trust it,"
        f" convert it once: {_conversion(place)}"
    )


def _conversion(place: str) -> str:
    folder = f"{Path(place).name}-safetensors"
    code = (
        f"from transformers import AutoModel, AutoTokenizer; name, folder = {place!r}, {folder!r};"
        " AutoModel.from_pretrained(name).save_pretrained(folder, safe_serialization=True);"
        " AutoTokenizer.from_pretrained(name).save_pretrained(folder)"
    )
    return f'python -c "{code}" and --set model.arch=./{folder}'


def _matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
