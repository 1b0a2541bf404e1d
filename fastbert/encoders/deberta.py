"""DeBERTa-v2, v3 and mDeBERTa: BERT's layers with attention over relative distances.

He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", section 3.1: beside
content to content, attention has content to position (c2p) and position to content (p2c). From v2
on, distances are put into buckets, finer for small distances; v2 also has a convolution beside its
first layer.

Letters: P tokens of a batch, T of a row, H hidden size, I intermediate size, S buckets of each
direction, W buckets that occur among T tokens.
"""

import math
from operator import attrgetter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from fastbert.encoders.bert import Layer
from fastbert.encoders.checks import check_shape
from fastbert.encoders.encoder import Encoder
from fastbert.errors import check_settings
from fastbert.exits.heads import ClassifierHead
from fastbert.exits.layout import HeadLayout
from fastbert.packed import disentangled
from fastbert.packed.attention import attend_by_length, attention
from fastbert.packed.batching import Batch
from fastbert.packed.placement import Placement

#: The parts of a layer for BERT's `Layer`.
_PARTS = (
    "attention.self.query_proj",
    "attention.self.key_proj",
    "attention.self.value_proj",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
#: Longest rows of models with distances only, as a multiple of `max_position_embeddings`: the last
#: bucket holds all longer distances, so any length works, and published classifiers run at twice
#: theirs. The bound is there because attention's memory grows with the square.
_LONGER = 8


class Distances:
    """Indices of distances between two tokens in a table of 2S relative positions."""

    def __init__(self, config: PreTrainedConfig, longest: int) -> None:
        limit, buckets = self.limit, self.number = _limits(config)
        self.span = buckets or limit  # S
        # Explicit device: while Hugging Face loads a model, the default makes empty tensors.
        far = torch.arange(longest, device="cpu")
        if buckets:
            far = _bucketed(far, buckets // 2, limit)
        both = torch.cat([-far[1:].flip(0), far])
        #: For distances 1 - `longest` to `longest` - 1; and a copy on the device of attention.
        self.places = self.moved = (both + self.span).clamp(0, 2 * self.span - 1)

    def buckets(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """W for rows of these lengths (n,)."""
        places, zero = self.places.numpy(), len(self.places) // 2
        found: NDArray[np.int64] = places[zero + lengths - 1] - places[zero - lengths + 1] + 1
        return found

    def between(self, length: int) -> tuple[slice, torch.Tensor]:
        """The part of the table that rows of this length need, and the index of i - j in it, for
        tokens i and j: (T, T)."""
        zero = len(self.places) // 2
        span = slice(zero - length + 1, zero + length)
        first, last = int(self.places[span][0]), int(self.places[span][-1])  # on the CPU
        near = self.moved[span] - first
        return slice(first, last + 1), near.unfold(0, length, 1).flip(1)


def _limits(config: PreTrainedConfig) -> tuple[int, int]:
    """The largest distance, and the number of buckets in each direction, 0 for none."""
    limit = getattr(config, "max_relative_positions", -1)
    limit = limit if limit > 0 else config.max_position_embeddings
    return limit, max(0, getattr(config, "position_buckets", -1))


def _bucketed(distance: torch.Tensor, middle: int, limit: int) -> torch.Tensor:
    """Buckets of distances from 0 on: one each up to the middle, then by logarithm, so that `limit`
    - 1 is in the last one. In float32, because its rounding decides where a bucket ends."""
    scale = torch.tensor((limit - 1) / middle, device="cpu").log()
    far = ((distance / middle).log() / scale * (middle - 1)).ceil() + middle
    return torch.where(distance <= middle, distance, far).long()


class DisentangledLayer(Layer):
    """One transformer layer with disentangled attention: BERT's, with a bias on its scores."""

    def __init__(
        self, layer: Any, encoder: "Deberta", place: Placement, norm: nn.Module | None
    ) -> None:
        parts = attrgetter(*_PARTS)(layer)
        super().__init__(parts, encoder.heads, encoder.activation, place, norm)
        self.distances, self.scale = encoder.distances, encoder.scale
        keys = queries = None
        own, shared = layer.attention.self, encoder.shared
        if "c2p" in encoder.kinds:
            keys = self._table(own.key_proj if shared else own.pos_key_proj, encoder, place)
        if "p2c" in encoder.kinds:
            queries = self._table(own.query_proj if shared else own.pos_query_proj, encoder, place)
        self.in_one_call = _goes_in_one_call(encoder, place)
        #: Keys and queries for each distance and head. In one call for all rows (1, heads, 2S, H /
        #: heads), otherwise (heads, H / heads, 2S) and scaled.
        self.keys, self.queries = (
            None if table is None else self._laid_out(table) for table in (keys, queries)
        )

    def _table(self, project: nn.Linear, encoder: "Deberta", place: Placement) -> torch.Tensor:
        """(2S, heads, H / heads)."""
        projected = place.module(project)(encoder.relative)
        table: torch.Tensor = projected.unflatten(-1, (self.heads, -1))
        return table.to(place.inner)

    def _laid_out(self, table: torch.Tensor) -> torch.Tensor:
        if self.in_one_call:
            return table.transpose(0, 1)[None].contiguous()
        return (table * self.scale).permute(1, 2, 0).contiguous()

    def attend(self, mixed: torch.Tensor, batch: Batch) -> torch.Tensor:
        if not self.in_one_call or self.distances is None:
            return attend_by_length(mixed, batch, self.heads, self._core)
        tables, limits = (self.keys, self.queries), (self.distances.limit, self.distances.number)
        return disentangled.attend(mixed, batch, self.heads, tables, self.scale, *limits)

    def _core(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        bias = None
        if self.distances:
            needed, places = self.distances.between(query.shape[2])
            index = places.expand(*query.shape[:2], -1, -1)
            if self.keys is not None:
                bias = (query @ self.keys[..., needed]).gather(-1, index)
            if self.queries is not None:
                found = (key @ self.queries[..., needed]).gather(-1, index.transpose(2, 3))
                bias = found.transpose(2, 3) if bias is None else bias + found.transpose(2, 3)
        return attention(query, key, value, bias, self.scale)


def _goes_in_one_call(encoder: "Deberta", place: Placement) -> bool:
    """Whether rows of any lengths go through attention together."""
    there = disentangled.kernel(place.device, place.dtype) is not None
    return there and bool(encoder.kinds) and disentangled.fits(encoder.width // encoder.heads)


def _check(config: PreTrainedConfig) -> None:
    """Raises InputError for sizes that no model can have."""
    sizes = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
             "intermediate_size", "max_position_embeddings"]  # fmt: skip
    sizes += ["embedding_size"] * hasattr(config, "embedding_size")
    activations = ["hidden_act", "pooler_hidden_act", *["conv_act"] * hasattr(config, "conv_act")]
    check_shape(config, sizes, activations, "layer_norm_eps")
    width = config.hidden_size // config.num_attention_heads
    head, types = getattr(config, "attention_head_size", width), config.type_vocab_size
    kernel, parts = getattr(config, "conv_kernel_size", 0), getattr(config, "conv_groups", 1)
    limit, buckets = _limits(config)
    apart = buckets == 0 or 2 <= buckets < 2 * (limit - 1)
    check_settings(config.model_type, [
        ("attention_head_size", head, head == width, f"{width}, the hidden size by the heads"),
        ("type_vocab_size", types, types >= 0, "0 or more"),
        ("position_buckets", buckets, apart, f"-1, or 2 to {2 * limit - 3}"),
        ("conv_kernel_size", kernel, kernel <= 0 or kernel % 2 == 1, "0 or an odd number"),
        ("conv_groups", parts, parts > 0 and config.hidden_size % parts == 0,
         f"a divisor of the hidden size, {config.hidden_size}"),
    ])  # fmt: skip


class Deberta(Encoder):
    """An encoder of the second and third version, in any language."""

    model_types = ("deberta-v2",)

    def __init__(self, config: PreTrainedConfig) -> None:
        _check(config)
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        self.heads, self.intermediate = config.num_attention_heads, config.intermediate_size
        self.activation: str = config.hidden_act
        #: BERT's positions, which v3 lacks.
        self.positioned = bool(config.position_biased_input)
        self.longest = config.max_position_embeddings * (1 if self.positioned else _LONGER)
        kinds = [kind for kind in ("c2p", "p2c") if kind in (config.pos_att_type or ())]
        #: Divisor of all products, with or without distances.
        self.scale = 1 / math.sqrt(self.width // self.heads * (1 + len(kinds)))
        self.distances = Distances(config, self.longest) if config.relative_attention else None
        self.kinds = kinds if self.distances else []
        self.shared = bool(getattr(config, "share_att_key", False))
        self.embedding: int = getattr(config, "embedding_size", self.width)
        kernel = max(0, getattr(config, "conv_kernel_size", 0))
        #: Kernel size of the convolution; 0: none.
        self.convolved: int = kernel * self.width // getattr(config, "conv_groups", 1)
        self.convolution: str = getattr(config, "conv_act", "tanh")
        self.pooler: str = config.pooler_hidden_act

    @property
    def backbone_options(self) -> dict[str, Any]:
        return {"attn_implementation": "eager"}  # the only one

    def head_of(self, classifier: PreTrainedModel) -> ClassifierHead:
        output, dense = attrgetter("classifier", "pooler.dense")(classifier)
        size, expected = dense.in_features, f"{self.width}, the hidden size"
        check_settings("deberta-v2", [("pooler_hidden_size", size, size == self.width, expected)])
        return ClassifierHead(HeadLayout(self.pooler), output, dense)

    def flops(self, k: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """As BERT's, and 2TWH for each kind of distances. Hugging Face's modules compute more,
        without need: distances that do not occur, and the same table for every batch. Layer 1 also
        has the convolution."""
        t, h = lengths, self.width
        if k == 0:
            return 2 * t * self.embedding * h * (self.embedding != h)
        found: NDArray[np.int64] = 8 * t * h * h + 4 * t * t * h + 4 * t * h * self.intermediate
        if self.distances:
            found += 2 * t * self.distances.buckets(t) * h * len(self.kinds)
        if k == 1:
            found += 2 * t * self.convolved * h
        return found

    def load(self, backbone: PreTrainedModel, place: Placement) -> Self:
        embeddings: Any = backbone.embeddings
        encoder: Any = backbone.encoder
        self.words = place.tensor(embeddings.word_embeddings.weight)
        self.positions = self.types = self.relative = None
        if self.positioned:
            self.positions = place.tensor(embeddings.position_embeddings.weight)
        if embeddings.token_type_embeddings is not None:
            self.types = place.tensor(embeddings.token_type_embeddings.weight)
        project = embeddings.embed_proj
        self.project = None if project is None else place.module(project)
        self.norm = place.module(embeddings.LayerNorm)
        if self.distances:
            self.distances.moved = self.distances.places.to(place.device)
            self.relative = place.tensor(encoder.get_rel_embedding()[: 2 * self.distances.span])
        norms = [embeddings.LayerNorm, *(attrgetter(_PARTS[-1])(each) for each in encoder.layer)]
        if self.convolved:
            norms[1] = encoder.conv.LayerNorm
        self.layers = [
            DisentangledLayer(layer, self, place, norm)
            for layer, norm in zip(encoder.layer, norms, strict=False)
        ]
        if self.convolved:
            self.conv = place.module(encoder.conv.conv)
            self.conv_norm = place.module(encoder.conv.LayerNorm)
        return self

    def embed(self, ids: torch.Tensor, types: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        hidden = functional.embedding(ids, self.words)
        if self.positions is not None:
            hidden += functional.embedding(batch.places, self.positions)
        if self.types is not None:
            hidden += self.types[0] if types is None else functional.embedding(types, self.types)
        if self.project is not None:
            hidden = self.project(hidden)
        normed: torch.Tensor = self.norm(hidden)
        return normed

    def layer(self, k: int, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        after = self.layers[k - 1](hidden, batch)
        if k > 1 or not self.convolved:
            return after
        mixed = torch.zeros_like(hidden)
        for group in batch.groups:
            convolved = self.conv(group.of(hidden).transpose(1, 2))
            group.of(mixed).copy_(convolved.transpose(1, 2))
        normed: torch.Tensor = self.conv_norm(after + ACT2FN[self.convolution](mixed))
        return normed
