"""LoRA targets: the linear modules of a network's layers that get an adapter, by their full names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from loratrack.errors import UserError, closest, problems_message
from loratrack.model.architectures import default_targets

SETTING = "model.lora.target_modules"

QUERY_OR_VALUE = {"q", "v", "kv", "qv", "qkv", "qkvz", "query", "value", "wq", "wv", "wkv", "wqkv"}
"""A word in the name of a projection that makes queries or values; keys alone learn least."""
FUSED = {"c_attn", "w_pack"}
NO_LAYERS = re.compile(r"head|classif|pool|embed", re.IGNORECASE)

ROUTERS = {"router"}
GATES = re.compile(r"(^|_)(gate|wg)$")
"""Beside `experts` these decide who of them is asked; elsewhere a gate is a part of what is computed."""

Layers = dict[str, list[str]]
"""The full names of the linear modules in each layer, in the order of the network."""


@dataclass(frozen=True)
class Coverage:
    """What a run adapts: `modules` goes to PEFT, which takes whole names and then touches nothing else."""

    modules: tuple[str, ...]
    suffixes: tuple[str, ...]
    layers: int
    total_layers: int
    how: str

    def describe(self) -> str:
        return (
            f"{', '.join(self.suffixes)}: {len(self.modules)} modules in {self.layers} of"
            f" {self.total_layers} layers ({self.how})"
        )


def find_targets(
    network: nn.Module,
    model_type: str,
    target_modules: str | tuple[str, ...],
    *,
    allow_partial: bool,
    only: tuple[int, ...] | None = None,
    generates: bool = False,
) -> Coverage:
    """The modules that `auto`, `all-linear` or the named suffixes mean in this network.

    Only linear modules inside its repeated layers: never a head, a pooler or an embedding, nor what chooses
    among experts. `auto` of a network that generates is all of them. The same
    answer whether the network has adapters already or not. A name that fits nothing, or only some of
    the layers without `allow_partial`, is a UserError that says what there is. `only`: the layers with these
    numbers, as if there were no others.
    """
    layers = _layers(network)
    if not any(layers.values()):
        raise UserError(f"model.arch: {model_type!r} has no linear module in repeated layers to adapt")
    num_layers = len(layers)
    beyond = sorted({number for number in only or () if number >= num_layers})
    if beyond:
        raise UserError(
            f"model.lora.layers: must be numbers from 0 to {num_layers - 1}, the layers of this base, got"
            f" {', '.join(map(str, beyond))}"
        )
    if only is not None:
        layers = {name: layers[name] for number, name in enumerate(layers) if number in only}
    if target_modules == "auto" and generates:
        coverage = _detected(layers, lambda name: True, "default of a network that generates", allow_partial)
    elif target_modules == "auto":
        coverage = _automatic(layers, model_type, allow_partial)
    elif target_modules == "all-linear":
        coverage = _detected(layers, lambda name: True, "named in the config", allow_partial)
    else:
        names = (target_modules,) if isinstance(target_modules, str) else target_modules
        _refuse(_strangers(network, layers, names))
        coverage = _named(layers, names, "named in the config", allow_partial)
    return replace(coverage, total_layers=num_layers)


def _automatic(layers: Layers, model_type: str, allow_partial: bool) -> Coverage:
    known = default_targets(model_type)
    if known and all(_matches(layers, suffix) for suffix in known):
        return _named(layers, known, f"default for {model_type}", allow_partial)
    if not any(_is_query_or_value(name) for linears in layers.values() for name in linears):
        raise UserError(
            f"{SETTING}: {model_type!r} has no attention projection that LoRA could adapt; name some of its"
            f" linear modules, or all-linear: {', '.join(_suffixes(layers))}"
        )
    return _detected(layers, _is_query_or_value, "detected", allow_partial)


def _named(layers: Layers, suffixes: Sequence[str], how: str, allow_partial: bool) -> Coverage:
    """Each of the suffixes has to be in each layer."""
    if not allow_partial:
        _refuse([fault for suffix in suffixes for fault in _gaps(layers, suffix)])
    chosen = {name for suffix in suffixes for name in _matches(layers, suffix)}
    return _coverage(layers, chosen, suffixes, how)


def _detected(layers: Layers, wanted: Callable[[str], bool], how: str, allow_partial: bool) -> Coverage:
    """Something has to be in each layer, but layers of several kinds may have it by several names."""
    chosen = {name for linears in layers.values() for name in linears if wanted(name)}
    suffixes = tuple(dict.fromkeys(_last(name) for name in _in_order(layers) if name in chosen))
    without = [layer for layer, linears in layers.items() if not chosen.intersection(linears)]
    if without and not allow_partial:
        _refuse([_partial(layers, ", ".join(suffixes), without)])
    return _coverage(layers, chosen, suffixes, how)


def _coverage(layers: Layers, chosen: set[str], suffixes: Sequence[str], how: str) -> Coverage:
    return Coverage(
        modules=tuple(name for name in _in_order(layers) if name in chosen),
        suffixes=tuple(suffixes),
        layers=sum(not chosen.isdisjoint(linears) for linears in layers.values()),
        total_layers=len(layers),
        how=how,
    )


# --- what there is


def _layers(network: nn.Module) -> Layers:
    """Each layer of the network, `encoder.layer.0`, with the linear modules in it.

    Lists of one length under one parent are one stack: XLM keeps attentions and ffns apart.
    """
    stacks: dict[tuple[str, int], list[tuple[str, nn.Module]]] = {}
    for name, stack in _stacks(network):
        stacks.setdefault((name.rpartition(".")[0], len(stack)), []).append((name, stack))
    layers: Layers = {}
    for (_, length), parts in stacks.items():
        layers_here = {
            f"{parts[0][0]}.{index}": [
                name
                for part, stack in parts
                for name in _linears(list(stack.children())[index], f"{part}.{index}")
            ]
            for index in range(length)
        }
        if any(layers_here.values()):  # lists of norms or of embeddings are no layers
            layers |= layers_here
    return layers


def _stacks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList | nn.Sequential]]:
    """The outermost lists of layers."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if _is_stack(child) and not NO_LAYERS.search(name):
            yield path, child
        elif not NO_LAYERS.search(name):
            yield from _stacks(child, f"{path}.")


def _is_in_stack(network: nn.Module, name: str) -> bool:
    return any(name.startswith(f"{stack}.") for stack, _ in _stacks(network))


def _is_stack(module: nn.Module) -> TypeGuard[nn.ModuleList | nn.Sequential]:
    children = list(module.children())
    if any(_is_linear(child) for child in children):
        return False
    if isinstance(module, nn.Sequential):
        return len(children) > 1 and len({type(child) for child in children}) == 1
    return isinstance(module, nn.ModuleList) and len(children) > 0


def _linears(module: nn.Module, path: str) -> Iterator[str]:
    if _is_linear(module):
        yield path
    elif not isinstance(module, nn.MultiheadAttention):  # it multiplies without calling its modules
        chooses = any(name == "experts" for name, _ in module.named_children())
        for name, child in module.named_children():
            if name not in ROUTERS and not (chooses and GATES.search(name)):
                yield from _linears(child, f"{path}.{name}")


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, BaseTunerLayer):  # one that has an adapter already
        module = module.get_base_layer()
    return isinstance(module, nn.Linear | Conv1D)


def _is_query_or_value(name: str) -> bool:
    last = _last(name).lower()
    return last in FUSED or not QUERY_OR_VALUE.isdisjoint(re.split(r"[_\d]+", last))


def _in_order(layers: Layers) -> list[str]:
    return [name for linears in layers.values() for name in linears]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _suffixes(layers: Layers) -> list[str]:
    return list(dict.fromkeys(_last(name) for name in _in_order(layers)))


def _matches(layers: Layers, suffix: str) -> list[str]:
    return [name for name in _in_order(layers) if _fits(name, suffix)]


def _fits(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


# --- what is wrong


def _strangers(network: nn.Module, layers: Layers, suffixes: Sequence[str]) -> list[str]:
    return [_stranger(network, layers, suffix) for suffix in suffixes if not _matches(layers, suffix)]


def _stranger(network: nn.Module, layers: Layers, suffix: str) -> str:
    """Why a name fits no linear module of the layers."""
    there = _suffixes(layers)
    for name, module in network.named_modules():
        if _fits(name, suffix) and _is_linear(module) and _is_in_stack(network, name):
            return f"{suffix!r} is {name}, which chooses among experts, where LoRA never goes"
        if _fits(name, suffix) and _is_linear(module):
            return f"{suffix!r} is {name}, outside the layers, where LoRA never goes"
        if _fits(name, suffix):
            return f"{suffix!r} is {name} ({type(module).__name__}), not a linear module of a layer"
    near = closest(suffix, there)
    hint = "" if near is None else f"did you mean {near!r}? "
    return f"{suffix!r} fits no module; {hint}the linear modules are {', '.join(there)}"


def _gaps(layers: Layers, suffix: str) -> list[str]:
    without = [layer for layer, linears in layers.items() if not any(_fits(name, suffix) for name in linears)]
    return [_partial(layers, suffix, without)] if without else []


def _partial(layers: Layers, suffixes: str, without: Sequence[str]) -> str:
    has = len(layers) - len(without)
    shown = ", ".join(without[:4]) + (f" and {len(without) - 4} more" if len(without) > 4 else "")
    others = list(dict.fromkeys(_last(name) for layer in without for name in layers[layer]))
    return (
        f"{suffixes}: in {has} of {len(layers)} layers; missing in {shown}, which have"
        f" {', '.join(others) or 'no linear module'}; choose modules that all layers have, or"
        " --set model.lora.allow_partial=true"
    )


def _refuse(faults: list[str]) -> None:
    if faults:
        raise UserError(problems_message(SETTING, faults))
