"""The classifiers that sit on the layers: the paper's branch, and the head of an adopted model.

Letters: B batch, T tokens, H hidden size, D branch width, N classes.
"""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN


class Branch(nn.Module):
    """Linear H -> D, self-attention over D, Linear D -> D, Linear D -> N, on the first token.

    Liu et al. 2020, section 3.1; what the paper leaves open (tanh after the first and third
    linear map, two heads, no residual connection) follows the official code. Only the first token
    is read in the end, so attention is computed for that one query: the same numbers, fewer FLOPs.
    """

    def __init__(self, hidden_size: int, branch_size: int, heads: int, num_labels: int) -> None:
        super().__init__()
        self.heads = heads
        self.narrow = nn.Linear(hidden_size, branch_size)
        self.query = nn.Linear(branch_size, branch_size)
        self.key = nn.Linear(branch_size, branch_size)
        self.value = nn.Linear(branch_size, branch_size)
        self.output = nn.Linear(branch_size, branch_size)
        self.dense = nn.Linear(branch_size, branch_size)
        self.classifier = nn.Linear(branch_size, num_labels)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states (B, T, H) and a boolean token mask (B, T), or None, to logits (B, N)."""
        x = torch.tanh(self.narrow(hidden))  # (B, T, D)
        query = self._split(self.query(x[:, :1]))  # (B, heads, 1, D / heads)
        key, value = self._split(self.key(x)), self._split(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])  # (B, heads, 1, T)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        x = (scores.softmax(-1) @ value).flatten(1)  # (B, D): one query, heads side by side
        logits: torch.Tensor = self.classifier(torch.tanh(self.dense(self.output(x))))
        return logits

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        parts: torch.Tensor = x.unflatten(-1, (self.heads, -1))
        return parts.transpose(1, 2)


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
        """Hidden states (B, T, H) to logits (B, N); the mask is not needed for one token."""
        logits: torch.Tensor = self.classifier(self.activation(self.dense(hidden[:, 0])))
        return logits
