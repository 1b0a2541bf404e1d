"""The authors' network, written down once more from their code: for one row without padding."""

import math

import numpy as np
import torch
from torch import nn

VOCABULARY, HIDDEN, HEADS, LAYERS, INNER, POSITIONS, CLASSES, BRANCH = 120, 36, 3, 3, 52, 64, 3, 14


class UerNorm(nn.Module):
    """As their module computes it: n - 1, and epsilon beside the deviation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(size))

    def forward(self, x):
        return (
            self.gamma * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
            + self.beta
        )


class UerAttention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_layers = nn.ModuleList(nn.Linear(size, size) for _ in range(3))
        self.final_linear = nn.Linear(size, size)

    def forward(self, x):
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in self.linear_layers)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.final_linear((weights @ v).transpose(1, 2).flatten(2))


class UerLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = UerAttention(HIDDEN, HEADS)
        self.layer_norm_1, self.layer_norm_2 = UerNorm(HIDDEN), UerNorm(HIDDEN)
        self.feed_forward = nn.ModuleDict(
            {"linear_1": nn.Linear(HIDDEN, INNER), "linear_2": nn.Linear(INNER, HIDDEN)}
        )

    def forward(self, x):
        x = self.layer_norm_1(self.self_attn(x) + x)
        inner = nn.functional.gelu(self.feed_forward["linear_1"](x))
        return self.layer_norm_2(self.feed_forward["linear_2"](inner) + x)


class UerBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output_layer_0 = nn.Linear(HIDDEN, BRANCH)
        self.self_atten = UerAttention(BRANCH, 2)
        self.output_layer_1 = nn.Linear(BRANCH, BRANCH)
        self.output_layer_2 = nn.Linear(BRANCH, CLASSES)

    def forward(self, x):
        x = self.self_atten(torch.tanh(self.output_layer_0(x)))[:, 0]
        return self.output_layer_2(torch.tanh(self.output_layer_1(x)))


class Uer(nn.Module):
    """The whole of it, for one row without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.ModuleDict(
            {
                "word_embedding": nn.Embedding(VOCABULARY, HIDDEN),
                "position_embedding": nn.Embedding(POSITIONS, HIDDEN),
                "segment_embedding": nn.Embedding(3, HIDDEN),
                "layer_norm": UerNorm(HIDDEN),
            }
        )
        self.encoder = nn.ModuleDict({"transformer": nn.ModuleList(UerLayer() for _ in range(3))})
        self.classifiers = nn.ModuleList(UerBranch() for _ in range(LAYERS))

    @torch.no_grad()
    def forward(self, ids: list[int], segments: list[int]) -> np.ndarray:
        parts = self.embedding
        x = parts["word_embedding"](torch.tensor([ids]))
        x = x + parts["position_embedding"](torch.arange(len(ids))[None])
        x = parts["layer_norm"](x + parts["segment_embedding"](torch.tensor([segments])))
        found = []
        for layer, branch in zip(self.encoder["transformer"], self.classifiers, strict=True):
            x = layer(x)
            found.append(branch(x)[0].numpy())
        return np.stack(found)
