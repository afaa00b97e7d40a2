"""The network: one base, and for each member its own adapter and heads.

network = Network(encoder, pooling="mean", device=device)
network.add("member-0", lora, classes={"domain": 10, "intent": 150}, seed=42)
logits = network(batch, ["member-0"])        # [rows, classes of all tasks]

A causal LM that goes on writing keeps its own output embedding, and pools nothing:

network = Network(causal_lm, pooling=None, device=device)
network.add("member-0", lora, classes={}, seed=42)
losses = network.token_loss(batch, positions, targets, weights)
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from loratrack.config.model import Lora
from loratrack.errors import UserError
from loratrack.model import attention
from loratrack.model.batch import Batch, BatchLayout, Layout, Sequences, arrange
from loratrack.model.dropout import Dropout
from loratrack.model.flat_parameters import FlatParameters
from loratrack.model.heads import Heads
from loratrack.model.routing import Router
from loratrack.model.targets import Coverage, find_targets
from loratrack.model.token_loss import OutputEmbedding, TokenLoss, output_embedding, token_loss

Pooling = Literal["cls", "mean", "last"]

ROWS_IN_A_PASS = 128
"""Without gradients: more is hardly faster, and the widest passes set the peak of memory."""
CAUSAL_ROWS, CAUSAL_TOKENS = 4, 8
"""Rows with the same first token, and nothing else in common, tell whether a network is causal."""
SAME_LOGITS = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""How much ours may differ from the architecture's own, relative to the largest."""
POSITIONS = re.compile(r"^(?!.*rel).*(pos|wpe)")
"""The name of a table of absolute positions."""


class Network:
    """A base that several members share; without LoRA, a base that its one member owns."""

    def __init__(
        self,
        base: PreTrainedModel,
        pooling: Pooling | None,
        device: torch.device,
        *,
        use_lora: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is what the base multiplies in: a frozen base is held in it, a trained one cast to it.

        Without `pooling` the base is a causal LM that generates.
        """
        self.base = base.to(device, dtype if use_lora else torch.float32)
        """What is adapted or trained, and saved: of a causal LM all of it."""
        self.encoder = encoder = base if pooling is not None else base.base_model
        """The part of it that gives a state for each token."""
        self.dtype = dtype
        self.config = encoder.config
        self.pooling, self.device, self.use_lora = pooling, device, use_lora
        self.members: list[str] = []
        self.heads: dict[str, Heads] = {}
        """Of the members that classify."""
        self.coverage: dict[str, Coverage] = {}
        self.peft: PeftModel | None = None
        self.router = Router()
        self._trained: dict[str, FlatParameters] = {}
        self.first_position = _first_position(encoder)
        # packing needs an architecture that leaves attention to transformers' interface, and takes positions
        has_open_attention = bool(getattr(encoder, "_supports_attention_backend", False))
        takes_positions = "position_ids" in inspect.signature(encoder.forward).parameters
        self.layouts: tuple[Layout, ...] = (
            ("packed", "padded") if has_open_attention and takes_positions else ("padded",)
        )
        self.max_tokens = _max_tokens(encoder)
        """Of one row; None where positions are computed and not looked up in a table."""
        self.rows_in_a_pass = ROWS_IN_A_PASS
        """Without gradients; fewer after memory ran out."""
        self._attention = encoder.config._attn_implementation
        """What transformers has chosen, for padded rows: not all architectures take `sdpa`."""
        self._takes_cache = "use_cache" in inspect.signature(encoder.forward).parameters
        self.is_causal = is_causal(self.encoder)
        if pooling == "cls" and self.is_causal:
            raise UserError(
                "model.pooling: 'cls' reads the first token, which has seen nothing in a causal network;"
                " write model.pooling: last or mean"
            )
        if use_lora:
            base.requires_grad_(False)
            base.eval()  # and so it stays: see `train`
        self.output: OutputEmbedding | None = None
        if pooling is None:
            self.output = output_embedding(base, dtype)
            _check_output(base, encoder, self.output, is_causal=self.is_causal)
        self.layout = self.layouts[0]
        self._checkpoints = False

    @property
    def num_tokens(self) -> int:
        """Tokens that the base has a vector for."""
        return len(self.encoder.get_input_embeddings().weight)

    @property
    def layout(self) -> Layout:
        return self._layout

    @layout.setter
    def layout(self, layout: Layout) -> None:
        if layout not in self.layouts:
            kind = self.config.model_type
            raise UserError(f"train.layout: {kind} networks can only be run {' or '.join(self.layouts)}")
        if len(self.layouts) > 1:
            self.encoder.set_attn_implementation(attention.PACKED if layout == "packed" else self._attention)
        self._layout = layout

    def add(self, member: str, lora: Lora, classes: Mapping[str, int], seed: int) -> None:
        """Give `member` an adapter and heads of its own, drawn from `seed` alone.

        One that generates has no classes, and no heads.
        """
        if self.use_lora:
            self._add_adapter(member, lora, seed)
        elif self.members:
            raise ValueError("a fully fine-tuned base has one owner")
        self.members.append(member)
        if self.output is None:
            self.heads[member] = Heads(self.config.hidden_size, classes, seed).to(self.device)
        if self.use_lora:
            self.router.attach(self.base, member, self.flat_parameters(member), lora.dropout)

    def remove(self, member: str) -> None:
        self.members.remove(member)
        self.heads.pop(member, None)
        self._trained.pop(member, None)
        if self.use_lora:
            self.router.detach(member)
        self.coverage.pop(member, None)
        if self.peft is not None:
            with warnings.catch_warnings():  # PEFT tells which adapter it now holds for the active one
                warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted", UserWarning)
                self.peft.delete_adapter(member)
            self._unfreeze(self.members)

    def flat_parameters(self, member: str) -> FlatParameters:
        """What `member` trains as one row of numbers; from the first call on its parameters live there."""
        if member not in self._trained:
            dtype = self.dtype if self.use_lora else torch.float32
            self._trained[member] = FlatParameters(self.parameters(member), dtype)
        return self._trained[member]

    def parameters(self, member: str) -> list[nn.Parameter]:
        """What `member` trains, in a fixed order."""
        own = [value for value in self.adapter_parameters(member).values() if value.requires_grad]
        return [*own, *self.heads[member].parameters()] if member in self.heads else own

    def adapter_parameters(self, member: str) -> dict[str, nn.Parameter]:
        """The member's part of the base: its LoRA matrices, or all of it without LoRA."""
        named = self.base.named_parameters()
        if not self.use_lora:
            return dict(named)
        mine = tuple(f".lora_{part}.{member}." for part in ("A", "B", "magnitude_vector"))
        return {name: value for name, value in named if any(part in name for part in mine)}

    def parameter_counts(self, member: str) -> tuple[int, int]:
        """Trainable and total parameters, as if the member were alone on the base."""
        trainable = sum(value.numel() for value in self.parameters(member))
        frozen = 0
        if self.use_lora:
            names = self.base.named_parameters()
            frozen = sum(value.numel() for name, value in names if ".lora_" not in name)
        return trainable, trainable + frozen

    def train(self) -> None:
        """A frozen base stays in eval mode, so that it drops nothing: members have their own dropout."""
        self.base.train(not self.use_lora)

    def eval(self) -> None:
        self.base.eval()

    def checkpoint_gradients(self) -> None:
        """Keep no activations inside the layers; the backward pass computes them again."""
        if not self.encoder.supports_gradient_checkpointing:
            kind = self.config.model_type
            raise UserError(f"train.gradient_checkpointing: {kind} networks cannot do it; set it to false")
        self._checkpoints = True
        if not self.use_lora:
            self.encoder.activation_checkpointing_enable({"use_reentrant": False})
            return
        # transformers would do it in train mode only, in which a frozen base is never.
        for module in self.encoder.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.forward = functools.partial(_recomputed, module.forward)

    def arrange(
        self,
        source: Sequences,
        rows_by_member: Sequence[NDArray[np.int64]],
        members: Sequence[str],
        dropout: Sequence[Dropout] | None = None,
    ) -> BatchLayout:
        """The named rows of each member, as this network needs them."""
        ragged = self.layout == "packed" and self.takes_ragged
        batch_layout = arrange(source, rows_by_member, self.layout, self.first_position, is_ragged=ragged)
        if self.use_lora and self.device.type != "cpu":
            batch_layout.arrays.update(self.router.arrays(batch_layout, members, dropout))
        return batch_layout

    @property
    def takes_ragged(self) -> bool:
        """Whether torch's attention of variable length serves, so that no bins are needed.

        On a GPU, in bf16, on a frozen base (one that is trained whole drops inside attention).
        """
        heads = getattr(self.config, "num_attention_heads", None)
        size = getattr(self.config, "head_dim", None) or (self.config.hidden_size // heads if heads else 0)
        has_fitting_heads = 0 < size <= 256 and size % 8 == 0  # what flash attention takes
        is_fast = self.device.type == "cuda" and self.dtype == torch.bfloat16
        return is_fast and self.use_lora and has_fitting_heads

    @property
    def can_be_captured(self) -> bool:
        """Whether a training pass can become a CUDA graph: the same kernels for each shape, no wait.

        Bins depend on the lengths, checkpointing recomputes, and products one by one depend on the tokens.
        """
        return (
            self.takes_ragged and self.layout == "packed" and not self._checkpoints and self.router.is_aligned
        )

    def routed(
        self, batch: Batch, members: Sequence[str], dropout: Sequence[Dropout] | None = None
    ) -> AbstractContextManager[None]:
        """Around a forward pass and its backward pass."""
        return self.router.on(batch, members, dropout) if self.use_lora else nullcontext()

    def logits(self, batch: Batch, members: Sequence[str]) -> Tensor:
        """[rows, classes of all tasks] in fp32; call inside `routed`.

        Of a network that generates, those of the token that comes after each row.
        """
        pooled = self._pool(self._encode(batch), batch).float()
        if self.output is not None:
            return self.output.logits(pooled)
        heads = [self.heads[member] for member in members]
        if len(heads) > 1 and len(set(batch.rows)) == 1:  # as many rows each: one product for all members
            weights = torch.stack([head.weight for head in heads])
            biases = torch.stack([head.bias for head in heads])[:, None]
            stacked = pooled.view(len(heads), batch.rows[0], -1)
            return torch.baddbmm(biases, stacked, weights.transpose(1, 2)).flatten(0, 1)
        parts = zip(torch.split(pooled, list(batch.rows)), heads, strict=True)
        return torch.cat([F.linear(part, head.weight, head.bias) for part, head in parts])

    def token_loss(self, batch: Batch, positions: Tensor, targets: Tensor, weights: Tensor) -> TokenLoss:
        """Of the tokens `targets` that come after the flattened `positions`; call inside `routed`."""
        assert self.output is not None, "a network without pooling generates"
        states = self._encode(batch).index_select(0, positions)
        return token_loss(states, targets, weights, self.output)

    def _add_adapter(self, member: str, lora: Lora, seed: int) -> None:
        generates = self.output is not None
        coverage = self.coverage[member] = find_targets(
            self.base,
            self.config.model_type,
            lora.target_modules,
            allow_partial=lora.allow_partial,
            only=lora.layers,
            generates=generates,
        )
        first = self.base.get_submodule(coverage.modules[0])
        # GPT-2's Conv1D keeps its weights transposed, and PEFT must be told
        is_transposed = isinstance(getattr(first, "base_layer", first), Conv1D)
        task = TaskType.CAUSAL_LM if generates else TaskType.FEATURE_EXTRACTION
        config = peft_config(lora, coverage.modules, task, fan_in_fan_out=is_transposed)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        with warnings.catch_warnings():  # PEFT asks transformers by a name that will go in v6
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            if self.peft is None:
                self.peft = PeftModel(self.base, config, adapter_name=member)
            else:
                self.peft.add_adapter(member, config)
        torch.set_rng_state(state)
        self._unfreeze((*self.members, member))

    def _unfreeze(self, members: Iterable[str]) -> None:
        """PEFT keeps one active adapter and freezes the others, whenever one comes or goes."""
        for member in members:
            for parameter in self.adapter_parameters(member).values():
                parameter.requires_grad_(True)

    def _encode(self, batch: Batch) -> Tensor:
        """Hidden states with one line for each flattened position."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_types is not None:
            inputs["token_type_ids"] = batch.token_types
        if batch.packing is not None:
            inputs.update(position_ids=batch.position_ids, packing=batch.packing)
        if self._takes_cache:
            inputs["use_cache"] = False
        cast = not self.use_lora and self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=cast):
            states: Tensor = self.encoder(**inputs).last_hidden_state
        return states.reshape(-1, states.shape[-1])

    def _pool(self, states: Tensor, batch: Batch) -> Tensor:
        if self.pooling == "cls":
            return states.index_select(0, batch.first_tokens)
        if self.pooling in ("last", None):
            return states.index_select(0, batch.first_tokens + batch.lengths - 1)
        if batch.real_tokens is not None:
            real = states.index_select(0, batch.real_tokens)
        else:
            real = states[: len(batch.row_of_token)]
        rows = len(batch.lengths)
        sums = torch.zeros(rows + 1, states.shape[-1], device=self.device)  # the last is the filler's
        return sums.index_add(0, batch.row_of_token, real.float())[:rows] / batch.lengths[:, None]


def peft_config(
    lora: Lora,
    modules: Sequence[str],
    task: TaskType = TaskType.FEATURE_EXTRACTION,
    *,
    fan_in_fan_out: bool,
) -> LoraConfig:
    """Our settings in PEFT's words, for the modules with these full names."""
    return LoraConfig(
        task_type=task,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(modules),
        fan_in_fan_out=fan_in_fan_out,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=True if lora.init == "default" else lora.init,
    )


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@torch.no_grad()
def is_causal(encoder: PreTrainedModel) -> bool:
    """Whether the first token sees nothing of the others: its state stays the same whatever follows."""
    was_training = encoder.training
    encoder.eval()
    rows = 3 + torch.arange(CAUSAL_ROWS * CAUSAL_TOKENS, device=encoder.device).view(CAUSAL_ROWS, -1)
    rows %= getattr(encoder.config, "vocab_size", None) or CAUSAL_TOKENS
    rows[:, 0] = rows[0, 0]
    states = encoder(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state
    encoder.train(was_training)
    return bool((states[:, 0] == states[:1, 0]).all())


@torch.no_grad()
def _check_output(
    base: PreTrainedModel, encoder: PreTrainedModel, output: OutputEmbedding, *, is_causal: bool
) -> None:
    """UserError where the base does more with its states than we know: its loss would be another's."""
    kind = base.config.model_type
    if not is_causal:
        raise UserError(
            f"model.arch: {kind!r} sees the tokens that come after, so it cannot learn to write them; name a"
            " causal LM"
        )
    was_training = base.training
    base.eval()
    tokens = torch.arange(CAUSAL_TOKENS, device=base.device)[None] % len(output.weight)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    right = base(**inputs).logits[0].float()
    ours = output.logits(encoder(**inputs).last_hidden_state[0])
    base.train(was_training)
    difference = float((ours - right).abs().max() / right.abs().max().clamp(min=1e-6))
    if not difference <= SAME_LOGITS[output.dtype]:
        raise UserError(
            f"model.arch: {kind!r} makes its logits in another way than by one product with its last states"
            f" ({difference:.0%} off), which its loss does not know; name another base"
        )


def _max_tokens(encoder: PreTrainedModel) -> int | None:
    """The fewest rows that a table of positions has for tokens: some keep rows for padding."""
    rooms: list[int] = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and POSITIONS.search(name):
            padding = module.padding_idx
            skipped = getattr(module, "offset", 0) if padding is None else padding + 1
            rooms.append(module.num_embeddings - skipped)
    for name, buffer in encoder.named_buffers():
        if buffer.ndim > 1 and buffer.is_floating_point() and POSITIONS.search(name):
            rooms.append(len(buffer))
    if not rooms:
        return None
    return min(*rooms, getattr(encoder.config, "max_position_embeddings", None) or rooms[0])


def _first_position(encoder: PreTrainedModel) -> int:
    """RoBERTa and its kin count positions from behind the padding's."""
    embeddings = getattr(encoder, "embeddings", None)
    if embeddings is not None and hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0
