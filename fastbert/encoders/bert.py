"""The model over rows that lie packed, one behind the other, without padding.

The same arithmetic as Hugging Face's own modules, which all supported families share: embeddings,
then layers of attention and a feed-forward block, each added to its input and normalised after.
Nothing is padded and nothing is masked: linear maps do not care where rows begin, and the rest
goes over groups of rows of one length. Rows are sorted by length, so groups are large.

Letters: N tokens, n rows of T tokens, H hidden size, D branch width, C classes.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from fastbert.encoders.pretrained import family, first_position
from fastbert.exits.heads import Branch, PooledHead
from fastbert.packed.batching import Group
from fastbert.packed.linear import prepared


class PackedEmbeddings:
    """Words, positions and, for pairs, types, to the first hidden states."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        parts: Any = backbone.embeddings
        self.words = parts.word_embeddings.weight.detach()
        unused = first_position(backbone.config)
        self.positions = parts.position_embeddings.weight.detach()[unused:]
        types = getattr(parts, "token_type_embeddings", None)
        self.second = None
        if types is not None:  # type 0 is added to the positions, the others are relative to it
            self.positions = self.positions + types.weight.detach()[0]
            self.second = (types.weight - types.weight[0]).detach()
        self.norm = parts.LayerNorm
        self.project = getattr(backbone, "embeddings_project", None)

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor | None, groups: list[Group]
    ) -> torch.Tensor:
        """Token ids (N,) and types (N,), or None for all 0, of rows in `groups` to (N, H)."""
        hidden = functional.embedding(ids, self.words)
        for group in groups:
            rows = hidden[group.tokens].view(group.rows, group.length, -1)
            rows += self.positions[: group.length]
        if types is not None and self.second is not None:
            hidden += functional.embedding(types, self.second)
        normed: torch.Tensor = self.norm(hidden)
        return normed if self.project is None else self.project(normed)


class PackedLayer:
    """A transformer layer of any supported family, prepared for inference."""

    def __init__(self, layer: nn.Module, config: PreTrainedConfig, int8: bool = False) -> None:
        parts = family(config).layer_parts(layer)
        self.heads = config.num_attention_heads
        self.query_key_value = prepared([parts["query"], parts["key"], parts["value"]], int8=int8)
        self.output = prepared([parts["output"]], int8=int8)
        self.attention_norm = parts["attention_norm"]
        self.up = prepared([parts["up"]], getattr(config, family(config).block_activation), int8)
        self.down = prepared([parts["down"]], int8=int8)
        self.block_norm = parts["block_norm"]

    def __call__(self, hidden: torch.Tensor, groups: list[Group]) -> torch.Tensor:
        """Hidden states (N, H) of rows in `groups` to the next ones (N, H).

        Tokens behind the last group belong to nobody, and what becomes of them means nothing.
        """
        context = self._attention(self.query_key_value(hidden), groups)
        hidden = self.attention_norm(self.output(context).add_(hidden))
        out: torch.Tensor = self.block_norm(self.down(self.up(hidden)).add_(hidden))
        return out

    def _attention(self, mixed: torch.Tensor, groups: list[Group]) -> torch.Tensor:
        """Queries, keys and values (N, 3H) to contexts (N, H)."""
        contexts = mixed.new_zeros(len(mixed), mixed.shape[1] // 3)
        for group in groups:
            split = mixed[group.tokens].view(group.rows, group.length, 3, self.heads, -1)
            query, key, value = split.permute(2, 0, 3, 1, 4)  # each (n, heads, T, H / heads)
            context = functional.scaled_dot_product_attention(query, key, value)
            place = contexts[group.tokens].view(group.rows, group.length, self.heads, -1)
            place.copy_(context.transpose(1, 2))
        return contexts


class PackedBranch:
    """A branch, or an adopted head, prepared for inference."""

    def __init__(self, branch: nn.Module, int8: bool = False) -> None:
        self.branch: Any = branch
        if isinstance(branch, Branch):
            self.narrow = prepared([branch.narrow], "tanh", int8)

    def __call__(self, hidden: torch.Tensor, groups: list[Group]) -> torch.Tensor:
        """Hidden states (N, H) of n rows in `groups` to logits (n, C), as in PackedLayer."""
        if isinstance(self.branch, PooledHead):
            first = [hidden[group.tokens][:: group.length] for group in groups]
            logits: torch.Tensor = self.branch.answer(torch.cat(first))
            return logits
        x = self.narrow(hidden)  # (N, D)
        pooled = []
        for group in groups:
            pooled.append(self.branch.pool(x[group.tokens].view(group.rows, group.length, -1)))
        logits = self.branch.answer(torch.cat(pooled))
        return logits
