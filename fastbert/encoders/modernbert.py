"""ModernBERT and mmBERT: norms before the blocks, rotary positions, local attention, gated blocks.

Warner et al. 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder", section 2.1.
Layers add functions of normalised hidden states to the hidden states, so heads read them after one
more norm, that behind the last layer. Most layers attend only to near tokens.

Letters: P tokens of a batch, T of a row, H hidden size, D size of a head, I intermediate size.
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from fastbert.encoders.checks import check_shape
from fastbert.encoders.encoder import Encoder
from fastbert.errors import check_settings
from fastbert.exits.heads import ClassifierHead
from fastbert.exits.layout import HeadLayout
from fastbert.packed.attention import attend
from fastbert.packed.batching import Batch
from fastbert.packed.placement import Placement

#: Kinds of layers, as in Hugging Face: with attention to all tokens, or to near ones.
_FULL, _LOCAL = "full_attention", "sliding_attention"
#: Kinds of rotary positions whose angles do not depend on the length of a row.
_ANGLES = ("default", "linear", "llama3", "yarn")


class Layer:
    """One transformer layer, prepared for inference."""

    def __init__(
        self, layer: Any, encoder: "ModernBert", kind: str, place: Placement, norm: nn.Module
    ) -> None:
        """`norm`: the last norm of attention's inputs."""
        self.heads = encoder.heads
        self.window = encoder.window if kind == _LOCAL else None
        self.cos, self.sin = encoder.rotations[kind]
        self.activation = ACT2FN[encoder.activation]
        self.attention_norm = place.module(layer.attn_norm)  # the identity in the first layer
        self.mixed = place.linear([layer.attn.Wqkv], norm=norm, inner=True)
        self.output = place.linear([layer.attn.Wo])
        self.block_norm = place.module(layer.mlp_norm)
        self.up = place.linear([layer.mlp.Wi], norm=layer.mlp_norm, inner=True)
        self.down = place.linear([layer.mlp.Wo])

    def __call__(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        mixed = self._turned(self.mixed(self.attention_norm(hidden)), batch.places)
        hidden = self.output(attend(mixed, batch, self.heads, self.window)).add_(hidden)
        up, gate = self.up(self.block_norm(hidden)).chunk(2, -1)
        after: torch.Tensor = self.down(self.activation(up) * gate).add_(hidden)
        return after

    def _turned(self, mixed: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values side by side (P, 3H), of tokens at these positions (P,), in
        place: rotates queries and keys by the angles of their positions, in float32 at least."""
        vectors = mixed.view(len(mixed), 3, self.heads, -1)[:, :2]  # (P, 2, heads, D)
        first, second = vectors.chunk(2, -1)
        across = torch.cat([-second, first], -1)
        cos, sin = (table[places][:, None, None] for table in (self.cos, self.sin))
        vectors.copy_(vectors * cos + across * sin)
        return mixed


def _check(config: PreTrainedConfig) -> None:
    """Raises InputError for sizes that no model can have."""
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
             "intermediate_size", "max_position_embeddings")  # fmt: skip
    check_shape(config, sizes, ("hidden_activation", "classifier_activation"), "norm_eps")
    width, kinds = config.hidden_size // config.num_attention_heads, config.layer_types
    depth, local = config.num_hidden_layers, config.local_attention
    rotary = {kind: (config.rope_parameters.get(kind) or {}).get("rope_type") for kind in {*kinds}}
    check_settings(config.model_type, [
        ("layer_types", kinds, len(kinds) == depth and {*kinds} <= {_FULL, _LOCAL},
         f"{_FULL!r} or {_LOCAL!r} for each of {depth} layers"),
        ("local_attention", local, local >= 0, "0 or more"),
        ("hidden_size", config.hidden_size, width % 2 == 0, "an even number for each head"),
        ("rope_parameters", rotary, {*rotary.values()} <= {*_ANGLES},
         f"one of {', '.join(_ANGLES)}"),
    ])  # fmt: skip


class ModernBert(Encoder):
    """An encoder of this family."""

    model_types = ("modernbert",)

    def __init__(self, config: PreTrainedConfig) -> None:
        _check(config)
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        self.heads, self.intermediate = config.num_attention_heads, config.intermediate_size
        self.activation: str = config.hidden_activation
        self.longest = config.max_position_embeddings
        self.kinds: list[str] = config.layer_types
        #: Largest distance of attention in a local layer.
        self.window: int = config.local_attention // 2
        self.head = HeadLayout(
            config.classifier_activation,
            "mean" if config.classifier_pooling == "mean" else "first",
            config.norm_eps,
        )

    def head_of(self, classifier: PreTrainedModel) -> ClassifierHead:
        own: Any = classifier
        return ClassifierHead(self.head, own.classifier, own.head.dense, own.head.norm)

    def flops(self, k: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """8TH² (query, key, value, output) + 4T²H (both products, which local layers compute as a
        whole) + 6THI (gated block) of a layer."""
        t, h = lengths, self.width
        if k == 0:
            return np.zeros_like(t)
        found: NDArray[np.int64] = 8 * t * h * h + 4 * t * t * h + 6 * t * h * self.intermediate
        return found

    def load(self, backbone: PreTrainedModel, place: Placement) -> Self:
        model: Any = backbone
        self.words = place.tensor(model.embeddings.tok_embeddings.weight)
        self.norm = place.module(model.embeddings.norm)
        like, positions = torch.empty(0), torch.arange(self.longest)[None]
        #: Cosine and sine of each position's angles, (longest, D) each, by the kind of layer: in
        #: float32 in every precision, because angles of far positions need it.
        self.rotations = {
            kind: tuple(
                part[0].to(place.device)
                for part in model.rotary_emb(like, positions, layer_type=kind)
            )
            for kind in {*self.kinds}
        }
        # The first layer has no norm of its own.
        norms = [model.embeddings.norm, *(layer.attn_norm for layer in model.layers[1:])]
        self.layers = [
            Layer(layer, self, kind, place, norm)
            for layer, kind, norm in zip(model.layers, self.kinds, norms, strict=True)
        ]
        self.final_norm = place.module(model.final_norm)
        return self

    def embed(self, ids: torch.Tensor, types: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        normed: torch.Tensor = self.norm(functional.embedding(ids, self.words))
        return normed

    def layer(self, k: int, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.layers[k - 1](hidden, batch)

    def readout(self, k: int, hidden: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.final_norm(hidden)
        return normed

    def trained_readout(
        self, backbone: PreTrainedModel, k: int, states: torch.Tensor
    ) -> torch.Tensor:
        """Hugging Face's last hidden states are already normalised, all others are not."""
        model: Any = backbone
        return states if k == self.depth else model.final_norm(states)
