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

from fastbert.encoders.bert import PackedBranch, PackedEmbeddings, PackedLayer
from fastbert.exits.criteria import CRITERIA, DEFAULT_CRITERION, PATIENCE, impatience
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed.batching import Group, batch_rows, groups, longest_first, pools

Array = np.ndarray[Any, Any]
#: (layer from 1, row numbers (n,), logits (n, N) if its branch was computed)
#: -> which rows go on to the next layer, bool (n,)
Decide = Callable[[int, Array, torch.Tensor | None], Array]
#: (a batch's tokens, its groups of rows) -> first hidden states (tokens, H)
Embed = Callable[[slice, list[Group]], torch.Tensor]


@dataclass(frozen=True)
class Predictions:
    """Answers for n rows, in input order."""

    label: Array  # int32 (n,), class index
    score: Array  # float32 (n,), probability of `label`
    exit_layer: Array  # int8 (n,), from 1
    uncertainty: Array  # float32 (n,), at the exit layer
    deep_label: Array  # int32 (n,), the last layer's label, -1 where it was not computed


#: Batches are read on into the tokens that follow, up to a multiple of this. oneDNN keeps what it
#: has compiled for every number of tokens it meets; if they did not repeat, that fills the memory.
_ROUND = 64

#: What the names of precisions mean.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


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
        """`dtype` int8 stands for 8-bit linear maps in an otherwise float32 model, on CPUs.

        `batch_tokens`: tokens per batch, default 4,096 on CPU and 65,536 on a GPU; there it is
        halved, for good, when a batch does not fit into the memory.

        `pool_tokens`: tokens that go layer by layer together; they hold
        `pool_tokens * H` numbers of memory, twice that while survivors are gathered.
        """
        int8 = dtype == torch.int8
        self.device = torch.device(device)
        self.dtype = torch.float32 if int8 else dtype
        model = model.eval().to(device=self.device, dtype=self.dtype)
        self.batch_tokens = batch_tokens or (65_536 if self.device.type == "cuda" else 4_096)
        self.pool_tokens = pool_tokens
        self.num_labels = model.num_labels
        backbone = model.config.backbone_config()
        self.hidden_size = backbone.hidden_size
        self.embeddings = PackedEmbeddings(model.backbone)
        self.layers = [PackedLayer(layer, backbone, int8) for layer in model.layers]
        self.branches = [PackedBranch(branch, int8) for branch in model.branches]

    def classify(
        self,
        tokens: Tokens,
        thresholds: Array,
        deep: Array | None = None,
        criterion: str = DEFAULT_CRITERION,
    ) -> Predictions:
        """Label rows, each at the first layer k with uncertainty < thresholds[k - 1].

        `thresholds` has L - 1 numbers; the last layer answers everybody who is left. `criterion`
        is one of `CRITERION_NAMES` and says what uncertainty means. Rows marked in `deep`
        (bool (n,)) exit like all others, but then run on to the last layer as well. Rows with the
        same tokens are computed once.
        """
        last = len(self.layers)
        if len(thresholds) != last - 1:
            raise ValueError(f"{len(thresholds)} thresholds for {last} layers; expected {last - 1}")
        limits = np.append(np.asarray(thresholds, np.float32), np.inf)  # (L,)
        deep = np.zeros(len(tokens), bool) if deep is None else deep
        chosen, place = tokens.distinct()
        deep_once = np.zeros(len(chosen), bool)
        deep_once[place[deep]] = True
        once = self._classify(tokens.take(chosen), limits, deep_once, criterion)
        answers = {name: values[place] for name, values in vars(once).items()}
        answers["deep_label"][~deep] = -1
        return Predictions(**answers)

    def _classify(self, tokens: Tokens, limits: Array, deep: Array, criterion: str) -> Predictions:
        """`classify` without a look at equal rows; `limits` (L,) end with the last layer's."""
        n, last = len(tokens), len(self.layers)
        out = Predictions(
            label=np.full(n, -1, np.int32),
            score=np.zeros(n, np.float32),
            exit_layer=np.zeros(n, np.int8),
            uncertainty=np.zeros(n, np.float32),
            deep_label=np.full(n, -1, np.int32),
        )
        before = np.full(n, -1, np.int32)  # the layer before's answers
        streak = np.zeros(n, np.int8)  # layers that have given the same answer in a row

        def decide(layer: int, rows: Array, logits: torch.Tensor | None) -> Array:
            assert logits is not None
            log_p = logits.float().log_softmax(-1)  # (n, N)
            best, label = log_p.max(-1)
            measured = [] if criterion == PATIENCE else [CRITERIA[criterion](log_p)]
            # One transfer, so one synchronisation, per layer and pool.
            answer = torch.stack([label.float(), best.exp(), *measured]).cpu().numpy()
            labels, scores, uncertainties = answer[0], answer[1], answer[-1]
            if criterion == PATIENCE:
                streak[rows] = np.where(labels == before[rows], streak[rows] + 1, 1)
                before[rows] = labels
                uncertainties = impatience(streak[rows], last)
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
        out = np.zeros((len(tokens), self.num_labels), np.float32)

        def decide(layer: int, rows: Array, logits: torch.Tensor | None) -> Array:
            if logits is not None:
                out[rows] = logits.float().cpu().numpy()
            return np.ones(len(rows), bool)

        self._walk(tokens, decide, first_branch=len(self.layers))
        return out

    def layer_logits(self, tokens: Tokens) -> Array:
        """The logits of every layer for every row: float32 (L, n, N)."""
        shape = (len(self.layers), len(tokens), self.num_labels)
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
            embed = self._embedder(tokens.take(rows))
            hidden = self._room(int(lengths.sum()))
            for layer in range(1, len(self.layers) + 1):
                first = embed if layer == 1 else None
                logits = self._layer(layer, hidden, lengths, layer >= first_branch, first)
                stays = decide(layer, rows, logits)
                if layer == len(self.layers) or not stays.any():
                    break
                if not stays.all():
                    # Found here: on a GPU, a boolean mask would cost a synchronisation.
                    kept = np.flatnonzero(np.repeat(stays, lengths))
                    places = torch.from_numpy(np.append(kept, np.zeros(_ROUND, np.int64)))
                    hidden = hidden.index_select(0, places.to(self.device))
                    rows, lengths = rows[stays], lengths[stays]

    def _embedder(self, tokens: Tokens) -> Embed:
        """The embeddings of a pool's tokens, and of `_ROUND` more of nobody, batch by batch: all at
        once they would be written to memory only to be read again by the first layer."""

        def moved(values: Array) -> torch.Tensor:
            return torch.from_numpy(np.append(values, values[:1].repeat(_ROUND))).to(self.device)

        ids = moved(tokens.ids)
        types = None if tokens.types is None else moved(tokens.types.astype(np.int32))

        def embed(span: slice, parts: list[Group]) -> torch.Tensor:
            return self.embeddings(ids[span], None if types is None else types[span], parts)

        return embed

    def _room(self, tokens: int) -> torch.Tensor:
        """Where a pool's hidden states will lie, and `_ROUND` tokens of nobody behind them."""
        shape = (tokens + _ROUND, self.hidden_size)
        hidden = torch.empty(shape, dtype=self.dtype, device=self.device)
        hidden[tokens:] = 0
        return hidden

    def _layer(
        self,
        layer: int,
        hidden: torch.Tensor,
        lengths: Array,
        with_branch: bool,
        embed: Embed | None,
    ) -> torch.Tensor | None:
        """One layer over the packed `hidden`, in place, or for the first layer over what `embed`
        gives; the logits (n, N) of its branch."""
        logits = []
        start = token = 0
        while start < len(lengths):
            count = batch_rows(lengths[start:], self.batch_tokens)
            parts = groups(lengths[start : start + count])
            own = parts[-1].tokens.stop
            span = slice(token, token + -(-own // _ROUND) * _ROUND)
            try:
                batch = hidden[span] if embed is None else embed(span, parts)
                after = self.layers[layer - 1](batch, parts)
                if with_branch:
                    logits.append(self.branches[layer - 1](after, parts))
            except torch.OutOfMemoryError:
                if count == 1:
                    raise
                self.batch_tokens //= 2  # for good: the next layer would fail again
                continue
            hidden[token : token + own] = after[:own]
            start, token = start + count, token + own
        return torch.cat(logits) if with_branch else None
