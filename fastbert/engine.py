"""Adaptive inference: each row leaves the network at the first layer that is sure enough.

Depth-first early exit wastes what it saves, because soon each batch holds a handful of rows. The
engine goes layer by layer over a whole pool of rows instead: all of them through layer 1 in
length-sorted batches, then the survivors of *all* batches, re-batched, through layer 2, and so on.
Between layers the hidden states of a pool lie packed, without padding, longest row first.

The engine knows token ids, not texts; it does no I/O.

Letters: n rows, T tokens, H hidden size, L layers, N classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastbert.backbone import additive_mask
from fastbert.batching import longest_first, padded_batches, pools
from fastbert.model import FastBertForSequenceClassification
from fastbert.tokens import Tokens
from fastbert.uncertainty import normalised_entropy

Array = np.ndarray[Any, Any]
#: (layer from 1, row numbers (n,), logits (n, N) if its branch was computed)
#: -> which rows go on to the next layer, bool (n,)
Decide = Callable[[int, Array, torch.Tensor | None], Array]


@dataclass(frozen=True)
class Predictions:
    """Answers for n rows, in input order."""

    label: Array  # int32 (n,), class index
    score: Array  # float32 (n,), probability of `label`
    exit_layer: Array  # int8 (n,), from 1
    uncertainty: Array  # float32 (n,), at the exit layer
    deep_label: Array  # int32 (n,), the last layer's label, -1 where it was not computed


def resolve_precision(precision: str, device: str) -> str:
    """The name of the precision to use: what was asked for; for "auto" bf16 on a GPU, else fp32."""
    if precision == "auto":
        return "bf16" if device == "cuda" else "fp32"
    return precision


#: What the names of precisions mean.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Engine:
    """A model on a device, ready to classify."""

    def __init__(
        self,
        model: FastBertForSequenceClassification,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_tokens: int | None = None,
        pool_tokens: int = 1 << 20,
    ) -> None:
        """`batch_tokens`: padded tokens per batch, default 4,096 on CPU and 65,536 on a GPU.

        `pool_tokens`: real tokens that go layer by layer together; they hold
        `pool_tokens * H` numbers of memory, twice that while survivors are gathered.
        """
        self.model = model.eval().to(device=device, dtype=dtype)
        self.device = torch.device(device)
        self.batch_tokens = batch_tokens or (65_536 if self.device.type == "cuda" else 4_096)
        self.pool_tokens = pool_tokens
        self.pad_id = int(model.config.backbone_config().pad_token_id or 0)

    def classify(self, tokens: Tokens, thresholds: Array, deep: Array | None = None) -> Predictions:
        """Label rows, each at the first layer k with uncertainty < thresholds[k - 1].

        `thresholds` has L - 1 numbers; the last layer answers everybody who is left. Rows marked
        in `deep` (bool (n,)) exit like all others, but then run on to the last layer as well.
        """
        n, last = len(tokens), len(self.model.layers)
        if len(thresholds) != last - 1:
            raise ValueError(f"{len(thresholds)} thresholds for {last} layers; expected {last - 1}")
        limits = np.append(np.asarray(thresholds, np.float32), np.inf)  # (L,)
        out = Predictions(
            label=np.full(n, -1, np.int32),
            score=np.zeros(n, np.float32),
            exit_layer=np.zeros(n, np.int8),
            uncertainty=np.zeros(n, np.float32),
            deep_label=np.full(n, -1, np.int32),
        )
        deep = np.zeros(n, bool) if deep is None else deep

        def decide(layer: int, rows: Array, logits: torch.Tensor | None) -> Array:
            assert logits is not None
            log_p = logits.float().log_softmax(-1)  # (n, N)
            best, label = log_p.max(-1)
            # One transfer, so one synchronisation, per layer and pool.
            answer = torch.stack([label.float(), best.exp(), normalised_entropy(log_p)])
            labels, scores, uncertainties = answer.cpu().numpy()
            waiting = out.exit_layer[rows] == 0
            # The last layer answers whatever its uncertainty, even if it is not a number.
            done = waiting & ((uncertainties < limits[layer - 1]) | (layer == last))
            left = rows[done]
            out.label[left] = labels[done]
            out.score[left] = scores[done]
            out.uncertainty[left] = uncertainties[done]
            out.exit_layer[left] = layer
            if layer == last:
                audited = deep[rows]
                out.deep_label[rows[audited]] = labels[audited]
            stays: Array = (waiting & ~done) | deep[rows]
            return stays

        self._walk(tokens, decide)
        return out

    def full_depth(self, tokens: Tokens) -> Array:
        """The last layer's logits, with no other branch computed: float32 (n, N)."""
        out = np.zeros((len(tokens), self.model.num_labels), np.float32)

        def decide(layer: int, rows: Array, logits: torch.Tensor | None) -> Array:
            if logits is not None:
                out[rows] = logits.float().cpu().numpy()
            return np.ones(len(rows), bool)

        self._walk(tokens, decide, first_branch=len(self.model.layers))
        return out

    def layer_logits(self, tokens: Tokens) -> Array:
        """The logits of every layer for every row: float32 (L, n, N)."""
        shape = (len(self.model.layers), len(tokens), self.model.num_labels)
        out = np.zeros(shape, np.float32)

        def decide(layer: int, rows: Array, logits: torch.Tensor | None) -> Array:
            assert logits is not None
            out[layer - 1, rows] = logits.float().cpu().numpy()
            return np.ones(len(rows), bool)

        self._walk(tokens, decide)
        return out

    @torch.inference_mode()
    def _walk(self, tokens: Tokens, decide: Decide, first_branch: int = 1) -> None:
        """All rows through the network, pool by pool, layer by layer; `decide` says who goes on."""
        order = longest_first(tokens.lengths)
        for start, stop in pools(tokens.lengths[order], self.pool_tokens):
            rows = order[start:stop]
            lengths = tokens.lengths[rows]
            hidden = self._embed(tokens, rows, lengths)  # (sum of lengths, H)
            for layer in range(1, len(self.model.layers) + 1):
                logits = self._layer(layer, hidden, lengths, with_branch=layer >= first_branch)
                stays = decide(layer, rows, logits)
                if layer == len(self.model.layers) or not stays.any():
                    break
                if not stays.all():
                    kept = torch.from_numpy(np.repeat(stays, lengths)).to(self.device)
                    hidden, rows, lengths = hidden[kept], rows[stays], lengths[stays]

    def _embed(self, tokens: Tokens, rows: Array, lengths: Array) -> torch.Tensor:
        """First hidden states of `rows`, packed: (sum of lengths, H)."""
        packed = []
        for start, stop in padded_batches(lengths, self.batch_tokens):
            width = int(lengths[start])
            ids = np.full((stop - start, width), self.pad_id, np.int64)
            types = np.zeros_like(ids)
            real = np.arange(width) < lengths[start:stop, None]  # (n, T)
            spans = [slice(tokens.offsets[r], tokens.offsets[r + 1]) for r in rows[start:stop]]
            ids[real] = np.concatenate([tokens.ids[span] for span in spans])
            if tokens.types is not None:
                types[real] = np.concatenate([tokens.types[span] for span in spans])
            mask = torch.from_numpy(real).to(self.device)
            hidden = self.model.embed(
                torch.from_numpy(ids).to(self.device), torch.from_numpy(types).to(self.device)
            )
            packed.append(hidden[mask])
        return torch.cat(packed)

    def _layer(
        self, layer: int, hidden: torch.Tensor, lengths: Array, with_branch: bool
    ) -> torch.Tensor | None:
        """One layer over the packed `hidden`, in place; the logits (n, N) of its branch."""
        block, branch = self.model.layers[layer - 1], self.model.branches[layer - 1]
        ends = np.cumsum(lengths)
        logits = []
        for start, stop in padded_batches(lengths, self.batch_tokens):
            n, width = stop - start, int(lengths[start])
            packed = hidden[ends[start] - width : ends[stop - 1]]  # a view: rows lie in order
            if lengths[stop - 1] == width:  # one length: nothing to pad, nothing to mask
                mask = None
                padded = packed.view(n, width, -1)  # (n, T, H)
            else:
                real = np.arange(width) < lengths[start:stop, None]
                mask = torch.from_numpy(real).to(self.device)
                padded = packed.new_zeros(n, width, packed.shape[-1])
                padded[mask] = packed
            padded = block(padded, additive_mask(mask, padded.dtype))
            if with_branch:
                logits.append(branch(padded, mask))
            packed.copy_(padded[mask] if mask is not None else padded.flatten(0, 1))
        return torch.cat(logits) if with_branch else None
