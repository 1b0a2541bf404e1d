"""How unsure a classifier is: the quantity that `speed` is compared with."""

import math

import torch


def normalised_entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy divided by log N, in [0, 1]: (..., N) log probabilities to (...,).

    Liu et al. 2020, equation 7. A probability that underflows to 0 contributes 0.
    """
    classes = log_probabilities.shape[-1]
    entropy: torch.Tensor = torch.special.entr(log_probabilities.exp()).sum(-1)
    return (entropy / math.log(classes)).clamp(0.0, 1.0)
