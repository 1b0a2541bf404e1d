"""The classifiers at the exits: the paper's branch, and the head of an adopted model.

Letters: B batch, T tokens, H hidden size, D branch width, N numbers that a head gives; packed, n
rows of M tokens together.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.activations import ACT2FN

from fastbert.exits.bag import Bag
from fastbert.packed.batching import Group
from fastbert.packed.placement import Placement


class Branch(nn.Module):
    """Linear H -> D, self-attention over D, Linear D -> D, Linear D -> N, on the first token.

    Liu et al. 2020, section 3.1; what the paper leaves open (tanh after the first and third
    linear map, two heads, no residual connection) follows the official code. Only the first token
    is read in the end, so attention is computed for that one query, and the projections of keys and
    values, linear maps of all tokens, are applied on the query's side instead, before and after the
    sum over tokens: the same numbers, fewer FLOPs. The keys' bias would add the same to
    the scores of all tokens, which softmax ignores: there is none.
    """

    def __init__(self, hidden_size: int, branch_size: int, heads: int, num_labels: int) -> None:
        super().__init__()
        self.heads = heads
        self.narrow = nn.Linear(hidden_size, branch_size)
        self.query = nn.Linear(branch_size, branch_size)
        self.key = nn.Linear(branch_size, branch_size, bias=False)
        self.value = nn.Linear(branch_size, branch_size)
        self.output = nn.Linear(branch_size, branch_size)
        self.dense = nn.Linear(branch_size, branch_size)
        self.classifier = nn.Linear(branch_size, num_labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states (B, T, H) and a boolean token mask (B, T), or None, to logits (B, N)."""
        return self.answer(self.pool(torch.tanh(self.narrow(hidden)), mask))

    def pool(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Narrowed tokens (B, T, D) to what each head takes from them (B, heads, D)."""
        query = self.query(x[:, 0]).unflatten(-1, (self.heads, -1))  # (B, heads, D / heads)
        key = self.key.weight.unflatten(0, (self.heads, -1))  # (heads, D / heads, D)
        query = torch.einsum("bhe,hed->bhd", query, key) / math.sqrt(key.shape[1])
        scores = query @ x.transpose(1, 2)  # (B, heads, T)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ x

    def answer(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, heads, D) to logits (B, N)."""
        value = self.value.weight.unflatten(0, (self.heads, -1))  # (heads, D / heads, D)
        x = torch.einsum("bhd,hed->bhe", pooled, value).flatten(1) + self.value.bias  # (B, D)
        logits: torch.Tensor = self.classifier(torch.tanh(self.dense(self.output(x))))
        return logits

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of rows of these lengths: all tokens narrowed and read by each attention head, everything
        else once per row."""
        hidden, d = self.narrow.in_features, self.narrow.out_features
        every_token = 2 * lengths * hidden * d + 4 * lengths * d * self.heads
        return every_token + 10 * d * d + 2 * d * self.classifier.out_features


class PooledHead(nn.Module):
    """Linear H -> H, activation, Linear H -> N on the first token.

    The head that Hugging Face's sequence classifiers of all supported families have, each with its
    own activation; it lets an adopted classifier stay exactly itself at full depth.
    """

    def __init__(self, hidden_size: int, num_labels: int, activation: str) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.activation = ACT2FN[activation]
        self.classifier = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """As a branch; the mask is not needed for one token."""
        return self.answer(hidden[:, 0])

    def answer(self, first: torch.Tensor) -> torch.Tensor:
        """First tokens (B, H) to logits (B, N)."""
        logits: torch.Tensor = self.classifier(self.activation(self.dense(first)))
        return logits

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of rows of these lengths: the same for all, as one token is read."""
        hidden, classes = self.dense.in_features, self.classifier.out_features
        return np.full_like(lengths, 2 * hidden * (hidden + classes))


#: What reads hidden states.
DeepHead = Branch | PooledHead
Head = DeepHead | Bag


class PackedHead:
    """A head prepared for inference over packed rows of hidden states."""

    def __init__(self, head: DeepHead, place: Placement) -> None:
        if isinstance(head, Branch):
            self.narrow = place.linear([head.narrow], "tanh")
        self.head: DeepHead = place.module(head)

    def __call__(self, hidden: torch.Tensor, groups: list[Group]) -> torch.Tensor:
        """Hidden states (M, H) of n rows in `groups` to logits (n, N). Tokens behind the last group
        are of no row."""
        if isinstance(self.head, PooledHead):
            first = [hidden[group.tokens][:: group.length] for group in groups]
            return self.head.answer(torch.cat(first))
        x = self.narrow(hidden)  # (M, D)
        pool = self.head.pool
        pooled = [pool(x[g.tokens].view(g.rows, g.length, -1)) for g in groups]
        return self.head.answer(torch.cat(pooled))
