"""BERT and five families whose layers compute the same.

Normalised embeddings of words, positions and types; then layers of attention and a feed-forward
block, each added to its input and then normalised. Families differ in the names of their weights,
in how they count positions, and in the head of their classifier.

Letters: P tokens of a batch, T of a row, H hidden size, I intermediate size, L layers.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from fastbert.encoders.checks import check_shape
from fastbert.encoders.encoder import Encoder
from fastbert.errors import check_settings
from fastbert.exits.heads import ClassifierHead
from fastbert.exits.layout import HeadLayout
from fastbert.packed.attention import attend
from fastbert.packed.batching import Batch
from fastbert.packed.placement import Placement


@dataclass(frozen=True)
class Family:
    """Attribute paths of a family's parts."""

    #: The list of L layers, from the base model.
    layers: str = "encoder.layer"
    #: The parts of one layer, from the layer: query, key, value, output and norm of the attention;
    #: up projection, down projection and norm of the block.
    parts: tuple[str, ...] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    )
    #: Activation and width I of the feed-forward block, from the configuration.
    activation: str = "hidden_act"
    intermediate: str = "intermediate_size"
    #: The base model takes `add_pooling_layer`.
    optional_pooler: bool = True
    #: The sequence classifier's own head: dense, activation and output, from the whole classifier.
    head: tuple[str, str, str] = ("classifier.dense", "tanh", "classifier.out_proj")
    #: Positions start after the padding id, and count only other ids: a `<pad>` written in the
    #: middle of a text has no position of its own.
    padded_positions: bool = False


FAMILIES = {
    "bert": Family(head=("bert.pooler.dense", "tanh", "classifier")),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), Family(padded_positions=True)),
    "electra": Family(
        optional_pooler=False, head=("classifier.dense", "gelu", "classifier.out_proj")
    ),
    "distilbert": Family(
        layers="transformer.layer",
        parts=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "sa_layer_norm",
            "ffn.lin1",
            "ffn.lin2",
            "output_layer_norm",
        ),
        activation="activation",
        intermediate="hidden_dim",
        optional_pooler=False,
        head=("pre_classifier", "relu", "classifier"),
    ),
}


class Layer:
    """One transformer layer, prepared for inference."""

    def __init__(
        self,
        parts: tuple[Any, ...],
        heads: int,
        activation: str,
        place: Placement,
        norm: nn.Module | None,
    ) -> None:
        """`parts` as in `Family.parts`; the activation is the block's; `norm` is the last norm of
        the hidden states."""
        query, key, value, output, attention_norm, up, down, block_norm = parts
        self.heads = heads
        self.mixed = place.linear([query, key, value], norm=norm, inner=True)
        self.output = place.linear([output])
        self.attention_norm = place.add_norm(attention_norm)
        self.block = place.block(up, activation, down, attention_norm)
        self.block_norm = place.add_norm(block_norm)

    def __call__(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        context = self.attend(self.mixed(hidden), batch)
        hidden = self.attention_norm(self.output(context), hidden)
        return self.block_norm(self.block(hidden), hidden)

    def attend(self, mixed: torch.Tensor, batch: Batch) -> torch.Tensor:
        """As `packed.attention.attend`."""
        return attend(mixed, batch, self.heads)


def _check(config: PreTrainedConfig, family: Family) -> None:
    """Raises InputError for invalid sizes."""
    sizes = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
             family.intermediate, "max_position_embeddings"]  # fmt: skip
    sizes += [name for name in ("embedding_size", "type_vocab_size") if hasattr(config, name)]
    check_shape(config, sizes, [family.activation], "layer_norm_eps")
    if family.padded_positions:
        padding, limit = config.pad_token_id, config.max_position_embeddings - 1
        right = padding is not None and padding < limit
        expected = f"a number from 0 to {limit - 1}"
        check_settings(config.model_type, [("pad_token_id", padding, right, expected)])


class Bert(Encoder):
    """An encoder of any of the six families."""

    model_types = FAMILIES

    def __init__(self, config: PreTrainedConfig) -> None:
        self.family = FAMILIES[config.model_type]
        _check(config, self.family)
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        self.heads = config.num_attention_heads
        self.intermediate: int = getattr(config, self.family.intermediate)
        self.activation: str = getattr(config, self.family.activation)
        self.padding = int(config.pad_token_id) if self.family.padded_positions else None
        first_position = 0 if self.padding is None else self.padding + 1
        self.longest = int(config.max_position_embeddings) - first_position
        # ELECTRA's embeddings may be narrower than its hidden states.
        self.embedding: int = getattr(config, "embedding_size", None) or self.width

    @property
    def backbone_options(self) -> dict[str, Any]:
        return {"add_pooling_layer": False} if self.family.optional_pooler else {}

    def head_of(self, classifier: PreTrainedModel) -> ClassifierHead:
        dense, activation, output = self.family.head
        parts = attrgetter(output, dense)(classifier)
        return ClassifierHead(HeadLayout(activation), *parts)

    def flops(self, k: int, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """8TH² (query, key, value, output) + 4T²H (both products) + 4THI (block) of a layer."""
        t, h = lengths, self.width
        if k == 0:
            return 2 * t * self.embedding * h * (self.embedding != h)
        return 8 * t * h * h + 4 * t * t * h + 4 * t * h * self.intermediate

    def load(self, backbone: PreTrainedModel, place: Placement) -> Self:
        embeddings: Any = backbone.embeddings
        self.words = place.tensor(embeddings.word_embeddings.weight)
        self.positions = place.tensor(embeddings.position_embeddings.weight)
        types = getattr(embeddings, "token_type_embeddings", None)
        self.second = None
        if types is not None:  # type 0 is added to the positions, the others are relative to it
            self.positions = self.positions + place.tensor(types.weight[0])
            self.second = place.tensor(types.weight - types.weight[0])
        self.norm = place.module(embeddings.LayerNorm)
        project = getattr(backbone, "embeddings_project", None)
        self.project = None if project is None else place.module(project)
        parts = attrgetter(*self.family.parts)
        layers = attrgetter(self.family.layers)(backbone)
        norms = [embeddings.LayerNorm if project is None else None]
        norms += [parts(each)[-1] for each in layers]
        self.layers = [
            Layer(parts(each), self.heads, self.activation, place, norm)
            for each, norm in zip(layers, norms, strict=False)
        ]
        return self

    def embed(self, ids: torch.Tensor, types: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        hidden = functional.embedding(ids, self.words)
        hidden += functional.embedding(self._positions(ids, batch), self.positions)
        if types is not None and self.second is not None:
            hidden += functional.embedding(types, self.second)
        normed: torch.Tensor = self.norm(hidden)
        return normed if self.project is None else self.project(normed)

    def _positions(self, ids: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The positions of ids (P,)."""
        if self.padding is None:
            return batch.places
        counted = ids != self.padding
        before = functional.pad(counted.cumsum(0), (1, 0))  # of each token, and of the end
        own = before[1:] - before[batch.bounds.long()][batch.row]
        own[batch.tokens :] = 0
        return own * counted + self.padding

    def layer(self, k: int, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.layers[k - 1](hidden, batch)
