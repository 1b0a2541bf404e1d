"""Criteria of uncertainty of a single label, which thresholds apply to.

Every criterion is in [0, 1], and low if the classifier is sure. Letters: N classes.
"""

import math
from collections.abc import Callable

import torch

#: Classes that `top_entropy` uses, as the authors of FastBERT advise for many classes.
_TOP = 5


def normalised_entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy divided by log N, in [0, 1]: (..., N) log probabilities to (...,).

    Liu et al. 2020, equation 7. A probability that underflows to 0 contributes 0.
    """
    classes = log_probabilities.shape[-1]
    entropy: torch.Tensor = torch.special.entr(log_probabilities.exp()).sum(-1)
    return (entropy / math.log(classes)).clamp(0.0, 1.0)


def top_entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Normalised entropy among the five likeliest classes: (..., N) to (...,).

    FastPLM's criterion for many classes (Liu et al. 2023), where a long tail of small probabilities
    adds up; with five classes or fewer it is `normalised_entropy`.
    """
    top = log_probabilities.topk(min(_TOP, log_probabilities.shape[-1]), dim=-1).values
    return normalised_entropy(top.log_softmax(-1))


def improbability(log_probabilities: torch.Tensor) -> torch.Tensor:
    """1 - the probability of the answer: (..., N) to (...,)."""
    return 1.0 - log_probabilities.amax(-1).exp().clamp(max=1.0)


def narrowness(log_probabilities: torch.Tensor) -> torch.Tensor:
    """1 - the margin between the two likeliest classes: (..., N) to (...,). CALM, Schuster 2022."""
    best = log_probabilities.topk(2, dim=-1).values.exp()
    return (1.0 - (best[..., 0] - best[..., 1])).clamp(0.0, 1.0)


#: By name: those of `CRITERION_NAMES`.
CRITERIA: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tempered-entropy": normalised_entropy,  # of the logits of `Rule.heard`
    "entropy": normalised_entropy,
    "top-entropy": top_entropy,
    "max-probability": improbability,
    "margin": narrowness,
}
