"""The slow, obvious implementation that every fast path is compared with.

One row at a time, no padding, no re-batching; hidden states from Hugging Face's own forward pass;
the branch as the paper draws it, with attention between all tokens.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from fastbert.exits.bag import Bag
from fastbert.exits.heads import Branch, PooledHead
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification

#: Models that read no types of tokens.
NO_TYPES = ("distilbert", "modernbert")


@dataclass
class Answer:
    label: int
    score: float
    exit: int
    uncertainty: float


@lru_cache(maxsize=1)
def known_features(bag: Bag) -> dict[int | tuple[int, int], int]:
    """The place of each token and pair that it knows among its numbers."""
    known = [*bag.tokens.tolist(), *map(tuple, bag.pairs.tolist())]
    return {each: place for place, each in enumerate(known, 1)}


def bag_logits(bag: Bag, ids: list[int]) -> torch.Tensor:
    """Token ids (T,) to (N,)."""
    known, features = known_features(bag), [*ids, *pairwise(ids)]
    places = [known[each] for each in features if each in known]
    x = bag.numbers.weight[places].sum(0) / len(ids)
    return bag.classifier(torch.relu(bag.dense(x)))


def branch_logits(branch: Branch | PooledHead, hidden: torch.Tensor) -> torch.Tensor:
    """(1, T, H) to (N,)."""
    if isinstance(branch, PooledHead):
        x = hidden[0].mean(0) if branch.mean else hidden[0, 0]
        x = x if branch.dense is None else branch.activation(branch.dense(x))
        return branch.classifier(x if branch.norm is None else branch.norm(x))
    x = torch.tanh(branch.narrow(hidden))
    attention = torch.nn.MultiheadAttention(x.shape[-1], branch.heads, batch_first=True).to(x.dtype)
    projections = (branch.query, branch.key, branch.value)
    attention.in_proj_weight.data = torch.cat([p.weight for p in projections])
    biases = [branch.query.bias, torch.zeros_like(branch.value.bias), branch.value.bias]
    attention.in_proj_bias.data = torch.cat(biases)
    attention.out_proj.load_state_dict(branch.output.state_dict())
    x = attention(x, x, x, need_weights=False)[0]  # (1, T, D): every token looks at every token
    return branch.classifier(torch.tanh(branch.dense(x)))[0, 0]


@torch.no_grad()
def all_exits(model: FastBertForSequenceClassification, tokens: Tokens, row: int) -> np.ndarray:
    """The probabilities of every exit for one row, float64 (E, N)."""
    return all_logits(model, tokens, row).softmax(-1).numpy()


@torch.no_grad()
def all_logits(model: FastBertForSequenceClassification, tokens: Tokens, row: int) -> torch.Tensor:
    """What every exit gives for one row, float64 (E, N)."""
    span = slice(tokens.offsets[row], tokens.offsets[row + 1])
    inputs = {"input_ids": torch.tensor(tokens.ids[span][None]).long()}
    if tokens.types is not None and model.backbone.config.model_type not in NO_TYPES:
        inputs["token_type_ids"] = torch.tensor(tokens.types[span][None]).long()
    states = model.backbone(**inputs, output_hidden_states=True).hidden_states
    if model.backbone.config.model_type == "modernbert":  # whose last states alone are normed
        states = [*map(model.backbone.final_norm, states[:-1]), states[-1]]
    pairs = zip(model.branches, model.exits, strict=True)
    logits = [
        bag_logits(head, tokens.ids[span].tolist())
        if isinstance(head, Bag)
        else branch_logits(head, states[exit.depth])
        for head, exit in pairs
    ]
    return torch.stack(logits).double()


def heard(probabilities: np.ndarray, temperatures: list[float] | None) -> np.ndarray:
    """What decides at every exit, all of which are used: (E, N) to (E, N). Answers so far, each to
    the power of one by its temperature, in a geometric mean in which each counts 0.3 times as much
    as the next; the last one alone."""
    if temperatures is None:
        return probabilities
    soft = np.log(probabilities[:-1]) / np.array(temperatures)[:, None]
    found = [probabilities[-1]]
    for exit in reversed(range(len(soft))):
        weights = 0.3 ** np.arange(exit, -1, -1)
        mean = np.exp((weights[:, None] * soft[: exit + 1]).sum(0) / weights.sum())
        found.insert(0, mean / mean.sum())
    return np.stack(found)


def answer(probabilities: np.ndarray, thresholds: np.ndarray) -> Answer:
    """One row's (E, N) to its answer, by the rule of the paper (equation 7, section 3.3)."""
    exits, classes = probabilities.shape
    for exit, p in enumerate(probabilities):
        uncertainty = float((p * np.log(p)).sum() / np.log(1 / classes))
        if exit == exits - 1 or uncertainty < thresholds[exit]:
            return Answer(int(p.argmax()), float(p.max()), exit, uncertainty)
    raise AssertionError("the last exit answers everybody")


def gap_threshold(probabilities: list[np.ndarray], quantile: float) -> float:
    """A threshold that about this share of all uncertainties lies below, in a gap between two.

    Floating point differs in the last bit between batch shapes, so a row exactly on a threshold
    may leave at either exit; tests must not stand there.
    """
    p = np.stack(probabilities)  # (n, E, N)
    seen = np.sort((p * np.log(p)).sum(-1).ravel() / np.log(1 / p.shape[-1]))
    edges = np.concatenate([[0.0], seen, [1.0]])
    middles = (edges[1:] + edges[:-1]) / 2
    middles = middles[np.diff(edges) > 1e-5]
    return float(middles[np.abs(middles - np.quantile(edges, quantile)).argmin()])
