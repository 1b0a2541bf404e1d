"""Adaptive inference: each row leaves the network at the first exit that is sure enough.

Depth-first early exit wastes its savings, because batches soon hold only a few rows. Instead, the
engine takes a whole pool of rows layer by layer: all of them through layer 1 in length-sorted
batches, then the remaining rows of *all* batches, re-batched, through layer 2, and so on. Between
layers the hidden states of a pool lie packed, without padding, longest row first.

The engine takes token ids, not texts; it does no I/O.

Letters: n rows, H hidden size, E exits, N outputs of a head per row.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fastbert.encoders import encoder_for
from fastbert.encoders.checks import check_reach
from fastbert.exits.bag import Bag
from fastbert.exits.heads import PackedHead
from fastbert.exits.rules import Rule
from fastbert.inference.decisions import Decide, Decisions, Later, Mask, Predictions, exits_used
from fastbert.inference.first_exit import leave_before_layers
from fastbert.inference.memory import affordable, out_of_memory
from fastbert.inference.precision import supports
from fastbert.inference.tokens import Tokens
from fastbert.inference.windows import Pooled
from fastbert.model import FastBertForSequenceClassification
from fastbert.packed import ragged
from fastbert.packed.batching import ROUND, Batch, batch_rows, cut, longest_first
from fastbert.packed.input_range import Range
from fastbert.packed.placement import Placement
from fastbert.packed.process import prepare_process
from fastbert.packed.ranges import FixedPlacement
from fastbert.packed.transfer import on_device, on_host, places
from fastbert.tasks.task import Task

#: (hidden states of a pool, one of its batches) -> the batch's next hidden states
Step = Callable[[torch.Tensor, Batch], torch.Tensor]
#: Called with the share of the work done, 0 to 1.
Advance = Callable[[float], object]

#: Dtypes of precisions.
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}
#: Dtype of the rest of a model whose linear maps multiply 8-bit numbers.
_OTHERS = {torch.int8: torch.float32, torch.float8_e4m3fn: torch.bfloat16}


class Engine:
    """A model on a device, ready to classify."""

    def __init__(
        self,
        model: FastBertForSequenceClassification,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch_tokens: int | None = None,
        pool_tokens: int | None = None,
        ranges: Mapping[str, Range] | None = None,
    ) -> None:
        """`dtype` int8 means 8-bit linear maps in an otherwise float32 model, on CPUs, and
        float8_e4m3fn those in an otherwise bf16 one, on GPUs. The model does not change; float32
        weights on CPUs may be shared with it. On CPUs glibc is set to keep memory
        (`packed.process`).

        `ranges`: input ranges of linear maps by name, from `measure_ranges`. int8 clips inputs to
        them, which is faster, and attention computes in bf16 if the processor supports it. Raises
        InputError for a missing one, and as `check_reach`.

        `batch_tokens`: tokens per batch, by default 4,096 on CPU and 65,536 on a GPU.
        `pool_tokens`: tokens that go layer by layer together, by default 1,048,576, halved until
        their hidden states take at most a quarter of the free memory: `H` numbers per token of each
        pool in use, and as many while remaining rows are gathered. If they do not fit, both are
        halved permanently.
        """
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())  # as in tensors
        if self.device.type == "cpu":
            prepare_process()
        self.dtype = _OTHERS.get(dtype, dtype)
        place = self._placement(model, dtype, ranges)
        self.ragged = ragged.kernel(self.device, self.dtype) is not None
        self.questions, self.exits = model.questions, model.exits
        self.windows = model.config.windowing
        self.encoder = encoder_for(model.config.backbone_config()).load(model.backbone, place)
        #: Heads by exit: those that read tokens, and those that read hidden states.
        self.bags: dict[int, Bag] = {}
        self.heads: dict[int, PackedHead] = {}
        for exit, head in enumerate(model.heads):
            if isinstance(head, Bag):
                self.bags[exit] = place.exactly(head)
            else:
                self.heads[exit] = PackedHead(head, place)
        #: Pools in use: while one waits for decisions, a GPU continues with the other.
        self.pools = 2 if self.device.type == "cuda" else 1
        self.batch_tokens = batch_tokens or (65_536 if self.device.type == "cuda" else 4_096)
        per_token = (self.pools + 1) * self.encoder.width * self.dtype.itemsize
        self.pool_tokens = pool_tokens or affordable(self.device, per_token, self.batch_tokens)

    def _placement(
        self,
        model: FastBertForSequenceClassification,
        dtype: torch.dtype,
        ranges: Mapping[str, Range] | None,
    ) -> Placement:
        if dtype != torch.int8 or ranges is None:
            return Placement(self.device, self.dtype, dtype if dtype in _OTHERS else None)
        check_reach(model)
        within = torch.bfloat16 if supports("bf16", "cpu") else self.dtype
        return FixedPlacement(
            self.device, self.dtype, names=model.names(), ranges=ranges, within=within
        )

    @property
    def task(self) -> Task:
        """The task of the only question; raises ValueError if there are several."""
        return self.questions.only

    def classify(
        self,
        tokens: Tokens,
        rule: Rule,
        deep: Mask | None = None,
        advance: Advance = lambda share: None,
    ) -> Predictions:
        """`answer` for a model with one question."""
        (found,) = self.answer(tokens, [rule], deep, advance)
        return found

    def answer(
        self,
        tokens: Tokens,
        rules: Sequence[Rule],
        deep: Mask | None = None,
        advance: Advance = lambda share: None,
    ) -> list[Predictions]:
        """Answers of rows, by question: each question at the exit where its rule lets a row leave;
        a row leaves the network where it gets its last answer.

        `advance` is called after each batch with the share of the rows' layers done; rows that left
        have none to do. Rows marked in `deep` (n,) exit like all others, and then also run to full
        depth. Rows with equal tokens are computed once. Raises ValueError if rules do not match the
        number of exits or of questions. Exits that no rule uses are not computed. The windows of a
        text go through the network together: their logits are pooled, and the text leaves as a
        whole.
        """
        for rule in rules:
            if rule.exits != len(self.exits):
                raise ValueError(f"a rule for {rule.exits} exits; the model has {len(self.exits)}")
        deep = np.zeros(len(tokens), bool) if deep is None else deep
        chosen, place = tokens.distinct()
        deep_once = np.zeros(len(chosen), bool)
        deep_once[place[deep]] = True
        once = tokens.take(chosen)
        decisions = Decisions(len(once), rules, self.questions, deep_once, self.device)
        self._run(once, decisions, exits_used(rules), advance)
        found = [each.take(place) for each in decisions.found]
        for each in found:
            each.audited[~deep] = False
        return found

    def full_depth(self, tokens: Tokens) -> NDArray[np.float32]:
        """The last exit's logits, without computing other heads: float32 (n, N)."""
        logits: NDArray[np.float32] = self.exit_logits(tokens, [len(self.exits) - 1])[0]
        return logits

    def exit_logits(
        self, tokens: Tokens, exits: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """The logits of `exits`, rising, or of all, for every row: float32 (E, n, N)."""
        exits = range(len(self.exits)) if exits is None else exits
        out = np.zeros((len(exits), len(tokens), self.questions.numbers), np.float32)

        def decide(exit: int, rows: NDArray[np.int64], logits: torch.Tensor) -> Later:
            numbers = on_host(logits.float())

            def stays() -> Mask:
                out[exits.index(exit), rows] = numbers()
                return np.ones(len(rows), bool)

            return stays

        self._run(tokens, decide, exits)
        return out

    @torch.inference_mode()
    def _run(
        self,
        tokens: Tokens,
        decide: Decide,
        exits: Iterable[int],
        advance: Advance = lambda share: None,
    ) -> None:
        """Run all rows through the network, pool by pool, to the last of these exits, rising;
        `decide` returns at each which rows continue."""
        done = 0
        whole = len(tokens.ids) * self.encoder.depth
        sizes = tokens.lengths
        tokens, texts = tokens.apart()
        counts = np.bincount(texts, minlength=len(sizes))
        first = np.cumsum(counts) - counts  # window of each text
        if self.windows is not None:
            decide = Pooled(decide, texts, self.questions, self.windows.pool)

        def passed(layers: int) -> None:
            nonlocal done
            done += layers
            advance(min(1.0, done / whole))  # more after a lack of memory

        order = np.arange(len(tokens))
        for exit in (each for each in exits if each in self.bags):
            stays = leave_before_layers(self.bags[exit], exit, tokens.take(order), order, decide)
            passed(int(tokens.lengths[order[~stays]].sum()) * self.encoder.depth)
            order = order[stays]
        exits = [exit for exit in exits if exit in self.heads]
        # Texts with all their windows, which leave together.
        left = np.unique(texts[order])
        left = left[longest_first(sizes[left])]
        # As many pools as may be in use.
        share = max(self.batch_tokens, -(-int(sizes[left].sum()) // self.pools))
        begun: list[tuple[Iterator[None], NDArray[np.int64]]] = []
        while len(left) or begun:
            while len(left) and len(begun) < self.pools:
                most = min(self.pool_tokens, share)
                some, left = np.split(left, [batch_rows(sizes[left], most)])
                rows = np.repeat(first[some] - np.cumsum(counts[some]) + counts[some], counts[some])
                rows += np.arange(len(rows))
                rows = rows[longest_first(tokens.lengths[rows])]
                pool = self._pool(tokens.take(rows), rows, decide, exits, passed)
                begun.append((pool, some))
            pool, some = begun.pop(0)
            try:
                next(pool)
            except StopIteration:
                continue
            except RuntimeError as error:
                if not out_of_memory(error) or (len(some) == 1 and not begun):
                    raise
                # Permanently: the next pool would fail again. Decisions in this one stay.
                left = np.concatenate([some, left])
                if begun:
                    self.pools = 1  # the others will free memory
                else:
                    tried = int(sizes[some].sum())
                    self.pool_tokens = max(1, min(self.pool_tokens, tried) // 2)
                continue
            begun.append((pool, some))

    def _pool(
        self,
        tokens: Tokens,
        rows: NDArray[np.int64],
        decide: Decide,
        exits: list[int],
        passed: Callable[[int], None],
    ) -> Iterator[None]:
        """Run a pool of rows, longest first, layer by layer together; yields at each exit, once the
        device has its work, so that another pool can be given work. `passed` is called for each
        batch with the number of layers that its tokens passed or skip."""
        lengths = tokens.lengths
        ids = self._moved(tokens.ids)
        types = None if tokens.types is None else self._moved(tokens.types.astype(np.int32))

        def layer(k: int, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
            at = batch.span
            if k == 0:
                return self.encoder.embed(ids[at], None if types is None else types[at], batch)
            passed(batch.tokens)
            return self.encoder.layer(k, hidden[at], batch)

        batches = self._cut(lengths)
        shape = (len(tokens.ids) + ROUND, self.encoder.width)
        hidden = torch.empty(shape, dtype=self.dtype, device=self.device)
        hidden[len(tokens.ids) :] = 0  # tokens of no row; others are written before they are read
        depth = -1
        for exit in exits:
            target = self.exits[exit].depth
            for k in range(depth + 1, target):
                self._batches(partial(layer, k), hidden, batches)
            step = partial(layer, target) if depth < target else None
            logits = self._batches(step, hidden, batches, exit)
            depth = target
            later = decide(exit, rows, torch.cat(logits))
            yield
            stays = later()
            passed(int(lengths[~stays].sum()) * (self.encoder.depth - depth))
            if not stays.any() or exit == exits[-1]:
                return
            if not stays.all():
                # On a GPU, a boolean mask would need a synchronisation.
                starts = np.cumsum(lengths) - lengths
                rows, lengths = rows[stays], lengths[stays]
                kept = places(starts[stays], lengths, self.device)
                hidden = hidden.index_select(0, functional.pad(kept, (0, ROUND)))
                batches = self._cut(lengths)

    def _moved(self, values: NDArray[np.int32]) -> torch.Tensor:
        """A pool's tokens on the device, and `ROUND` more of no row."""
        return on_device(np.append(values, values[:1].repeat(ROUND)), self.device)

    def _cut(self, lengths: NDArray[np.int64], begin: int = 0) -> list[Batch]:
        return [*cut(lengths, self.batch_tokens, begin, self.device, self.ragged)]

    def _batches(
        self,
        step: Step | None,
        hidden: torch.Tensor,
        batches: list[Batch],
        exit: int | None = None,
    ) -> list[torch.Tensor]:
        """Apply one step, or none, to the packed `hidden`, in place, batch by batch; yields the
        logits (n, N) of each batch at an exit after it. Batches that do not fit into memory are
        divided again."""
        logits: list[torch.Tensor] = []
        done = 0
        while done < len(batches):
            batch = batches[done]
            try:
                after = step(hidden, batch) if step else hidden[batch.span]
                if exit is not None:
                    readout = self.encoder.readout(self.exits[exit].depth, after)
                    logits.append(self.heads[exit](readout, batch))
            except RuntimeError as error:
                if batch.rows == 1 or not out_of_memory(error):
                    raise
                # Permanently: the next layer would fail again.
                self.batch_tokens = min(self.batch_tokens, batch.tokens) // 2
                left = np.concatenate([each.lengths for each in batches[done:]])
                batches[done:] = self._cut(left, batch.own.start)
                continue
            if step:
                hidden[batch.own] = after[: batch.tokens]
            done += 1
        return logits
