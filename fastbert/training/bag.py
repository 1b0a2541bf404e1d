"""Training of the exit before the first layer: only from the last exit's answers, in seconds.

Its numbers start as the principal components of the backbone's word embeddings, so that rare tokens
are near common ones of the same meaning.
"""

import math

import numpy as np
import torch
from torch import nn

from fastbert.exits.bag import Bag, storable
from fastbert.inference.tokens import Tokens
from fastbert.tasks.questions import Questions
from fastbert.tasks.task import Task

#: Rows to read, including repeats, and the fewest and most passes.
_ROWS, _FEWEST, _MOST = 400_000, 4, 60
#: Learning rates of the numbers and of the head, which fall linearly to 0.
_RATES = (5e-3, 1e-2)
#: Rows per step: fewer for small corpora, to keep the number of steps.
_FEWEST_ROWS, _MOST_ROWS, _STEPS = 32, 256, 16
#: Dropout of the numbers in each step: the others must classify the row.
_DROPPED = 0.5
#: Least occurrences of a pair of tokens, and most pairs.
_FREQUENT, _MOST_PAIRS = 10, 1 << 16


def occurring(tokens: Tokens, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vocabulary of a bag for these rows: ids of tokens (W,), and of frequent pairs (P, 2)."""
    ids = tokens.ids.astype(np.int64)
    inside = np.ones(len(ids), bool)
    inside[tokens.offsets[1:] - 1] = False  # the last token of a row begins no pair
    pairs = (ids * vocabulary + np.roll(ids, -1))[inside]
    kinds, times = np.unique(pairs, return_counts=True)
    order = np.argsort(-times, kind="stable")[: min(_MOST_PAIRS, int((times >= _FREQUENT).sum()))]
    frequent = np.stack(np.divmod(kinds[order], vocabulary), axis=1).astype(np.int32)
    known = np.unique(tokens.ids).astype(np.int32)
    return torch.from_numpy(known), torch.from_numpy(storable(frequent))


def teach_bag(
    bag: Bag,
    questions: Questions,
    words: torch.Tensor,
    tokens: Tokens,
    wanted: torch.Tensor,
    seed: int = 0,
) -> None:
    """Train a bag in place, on rows (n,) and full depth's logits (n, N); `words` are the backbone's
    word embeddings (V, H)."""
    generator = torch.Generator().manual_seed(seed)
    _begin(bag, words, generator)
    ids = torch.from_numpy(tokens.ids)
    starts, lengths = torch.from_numpy(tokens.offsets[:-1]).int(), torch.from_numpy(tokens.lengths)
    known = torch.stack(bag.lookup(ids, starts))  # (1 or 2, M)
    steps = [
        torch.optim.SparseAdam([bag.numbers.weight], lr=_RATES[0]),
        torch.optim.Adam([*bag.dense.parameters(), *bag.classifier.parameters()], lr=_RATES[1]),
    ]
    passes = min(_MOST, max(_FEWEST, round(_ROWS / len(tokens))))
    batch = min(_MOST_ROWS, max(_FEWEST_ROWS, len(tokens) // _STEPS))
    total = passes * math.ceil(len(tokens) / batch)
    slower = [torch.optim.lr_scheduler.LinearLR(step, 1.0, 0.0, total) for step in steps]
    bag.train()
    for _ in range(passes):
        for rows in torch.randperm(len(tokens), generator=generator).split(batch):
            sizes = lengths[rows]
            begins = sizes.cumsum(0) - sizes
            places = torch.repeat_interleave(starts[rows] - begins, sizes)
            places += torch.arange(len(places))
            kept = torch.rand(len(known), len(places), generator=generator) >= _DROPPED
            some = (known[:, places] * kept).unbind()
            given = bag.read(list(some), begins.int(), 1 - _DROPPED)
            loss = questions.total(_distil, given, wanted[rows]).mean()
            for step in steps:
                step.zero_grad()
            loss.backward()
            for step, next_ in zip(steps, slower, strict=True):
                step.step()
                next_.step()
    bag.eval()


def _distil(task: Task, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return task.distil(student, teacher, 1.0)


@torch.no_grad()
def _begin(bag: Bag, words: torch.Tensor, generator: torch.Generator) -> None:
    """Initial numbers of tokens: the principal components of their embeddings, with a variance of
    1; of pairs: 0."""
    size, count = bag.dense.in_features, len(bag.tokens)
    mine = words.float().cpu()[bag.tokens.long()]
    mine -= mine.mean(0)
    components = torch.linalg.eigh(mine.T @ mine).eigenvectors.flip(1)[:, :size]
    start = mine @ components
    bag.numbers.weight.zero_()
    bag.numbers.weight[1 : 1 + count, : start.shape[1]] = start / start.std().clamp(min=1e-12)
    for part in (bag.dense, bag.classifier):
        nn.init.xavier_uniform_(part.weight, generator=generator)
        nn.init.zeros_(part.bias)
