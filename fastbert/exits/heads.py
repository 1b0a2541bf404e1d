"""The classifiers at the exits: the paper's branch, and the head of an adopted model.

Letters: B batch, T tokens, H hidden size, D branch width, N outputs of a head; packed, n rows of a
batch of P tokens.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.activations import ACT2FN

from fastbert.exits.bag import Bag
from fastbert.exits.layout import HeadLayout
from fastbert.packed import ragged
from fastbert.packed.batching import Batch
from fastbert.packed.placement import Placement


def _exactly(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Linear map with its own dtype, independent of the others'."""
    mapped: torch.Tensor = linear(x.to(linear.weight.dtype))
    return mapped


#: `Task.take_over`
TakeOver = Callable[[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]], None]


class Branch(nn.Module):
    """Linear H -> D, self-attention over D, Linear D -> D, Linear D -> N, on the first token.

    Liu et al. 2020, section 3.1; details that the paper leaves open (tanh after the first and third
    linear map, two heads, no residual connection) follow the official code. Only the first token's
    output is used, so attention has a single query, and the projections of keys and values, linear
    maps of all tokens, are applied to the query instead, before and after the sum over tokens: the
    same numbers with fewer FLOPs. The keys have no bias, because it would add the same to all
    scores, which softmax ignores.
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
        """Narrowed tokens (B, T, D) to the context of each head (B, heads, D)."""
        return self._read(self._query(x[:, 0]), x, mask)

    def pool_packed(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The same of packed rows, narrowed tokens (P, D) to (n, heads, D): one query per row."""
        query = self._query(x.index_select(0, batch.bounds[:-1]))
        if batch.ragged and ragged.fits(x[:, None]):
            same = x[:, None].expand(-1, self.heads, -1)  # keys, and values
            each = torch.arange(batch.rows + 1, dtype=torch.int32, device=x.device)
            spans = (each, 1), (batch.bounds, batch.longest)
            return ragged.attend(query * math.sqrt(x.shape[1]), same, same, *spans)
        queries = query.split([group.rows for group in batch.groups])
        groups = zip(queries, batch.groups, strict=True)
        return torch.cat([self._read(some, group.of(x)) for some, group in groups])

    @staticmethod
    def _read(
        query: torch.Tensor, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Contexts (B, heads, D) of queries (B, heads, D) over tokens (B, T, D)."""
        scores = query @ x.transpose(1, 2)  # (B, heads, T)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ x

    def _query(self, first: torch.Tensor) -> torch.Tensor:
        """Queries from first tokens (B, D), with the keys' projection applied: (B, heads, D)."""
        query = self.query(first).unflatten(-1, (self.heads, -1))  # (B, heads, D / heads)
        key = self.key.weight.unflatten(0, (self.heads, -1))  # (heads, D / heads, D)
        return torch.einsum("bhe,hed->bhd", query, key) / math.sqrt(key.shape[1])

    def answer(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, heads, D) to logits (B, N)."""
        value = self.value.weight.unflatten(0, (self.heads, -1))  # (heads, D / heads, D)
        x = torch.einsum("bhd,hed->bhe", pooled, value).flatten(1) + self.value.bias  # (B, D)
        return _exactly(self.classifier, torch.tanh(self.dense(self.output(x))))

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """FLOPs of rows of these lengths: all tokens are narrowed and read by each attention head,
        everything else is once per row."""
        hidden, d = self.narrow.in_features, self.narrow.out_features
        every_token = 2 * lengths * hidden * d + 4 * lengths * d * self.heads
        return every_token + 10 * d * d + 2 * d * self.classifier.out_features


class ClassifierHead(NamedTuple):
    """The head of a classifier to adopt, and its parts; dense map and norm may be missing."""

    layout: HeadLayout
    output: nn.Linear
    dense: nn.Linear | None = None
    norm: nn.LayerNorm | None = None


class PooledHead(nn.Module):
    """A `HeadLayout` with weights: one vector of a row, perhaps Linear H -> H, activation and norm,
    then Linear H -> N.

    With it, an adopted classifier is unchanged at full depth.
    """

    def __init__(self, hidden_size: int, num_labels: int, layout: HeadLayout) -> None:
        super().__init__()
        self.mean = layout.pooling == "mean"
        self.dense = self.norm = None
        if layout.activation:
            self.dense = nn.Linear(hidden_size, hidden_size)
            self.activation = ACT2FN[layout.activation]
        if layout.norm is not None:
            self.norm = nn.LayerNorm(hidden_size, layout.norm)
        self.classifier = nn.Linear(hidden_size, num_labels)

    @torch.no_grad()
    def adopt(self, head: ClassifierHead, take_over: TakeOver) -> None:
        """Copy its weights, which have this layout; the map to classes as converted by the task. A
        missing bias is zeros."""
        for mine, theirs in ((self.dense, head.dense), (self.norm, head.norm)):
            if mine is not None:
                assert theirs is not None
                zeros = {"bias": torch.zeros_like(mine.bias)}
                mine.load_state_dict(zeros | theirs.state_dict())
        output, bias = head.output, head.output.bias
        bias = output.weight.new_zeros(len(output.weight)) if bias is None else bias
        take_over(self.classifier.weight, self.classifier.bias, (output.weight, bias))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """As in `Branch`; the mask is not needed for one token."""
        if mask is None or not self.mean:
            return self.answer(self.pool(hidden))
        return self.answer((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    def pool(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows without padding (n, T, H) to the pooled vectors (n, H)."""
        return rows.mean(1) if self.mean else rows[:, 0]

    def pool_packed(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The same of packed rows, tokens (P, H)."""
        if not self.mean:
            return x.index_select(0, batch.bounds[:-1])
        mean = torch.segment_reduce(x[: batch.tokens].float(), "mean", offsets=batch.bounds.long())
        return mean.to(x.dtype)

    def answer(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, H) to logits (B, N)."""
        if self.dense is not None:
            pooled = self.activation(self.dense(pooled))
        if self.norm is not None:
            pooled = self.norm(pooled)
        return _exactly(self.classifier, pooled)

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """FLOPs of rows of these lengths: equal for all, because one vector is read."""
        hidden, classes = self.classifier.in_features, self.classifier.out_features
        dense = 0 if self.dense is None else hidden
        return np.full_like(lengths, 2 * hidden * (dense + classes))


class JointHead(nn.Module):
    """Heads of adopted classifiers that share a backbone, one for each question."""

    def __init__(self, heads: Sequence[PooledHead]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(heads)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """As in `Branch`, concatenated."""
        return torch.cat([part(hidden, mask) for part in self.parts], -1)

    def flops(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """FLOPs of all heads."""
        parts: list[Any] = list(self.parts)
        flops: NDArray[np.int64] = np.sum([part.flops(lengths) for part in parts], axis=0)
        return flops


#: Heads that read hidden states.
DeepHead = Branch | PooledHead | JointHead
Head = DeepHead | Bag


class PackedHead:
    """A head prepared for inference over packed rows of hidden states."""

    def __init__(self, head: DeepHead, place: Placement) -> None:
        if isinstance(head, Branch):
            self.narrow = place.linear([head.narrow], "tanh")
        parts: list[Any] = list(head.parts) if isinstance(head, JointHead) else []
        self.parts = [PackedHead(part, place) for part in parts]
        self.head: DeepHead = place.module(head)
        if not isinstance(head, JointHead):  # a bf16 number has only three digits
            self.head.classifier = place.exactly(head.classifier)

    def __call__(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Hidden states (P, H) to logits (n, N)."""
        if isinstance(self.head, JointHead):
            return torch.cat([part(hidden, batch) for part in self.parts], -1)
        x = self.narrow(hidden) if isinstance(self.head, Branch) else hidden  # (P, D or H)
        return self.head.answer(self.head.pool_packed(x, batch))
