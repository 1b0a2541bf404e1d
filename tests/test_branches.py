"""The branch against the paper's drawing of it: attention between all tokens, first one read."""

import torch
from support.models import BRANCH, CLASSES, HIDDEN, make_noisy
from support.reference import branch_logits

from fastbert.exits.heads import Branch


def branch() -> Branch:
    torch.manual_seed(5)
    return make_noisy(Branch(HIDDEN, BRANCH, 2, CLASSES), seed=5).double()


def test_attention_of_the_first_token_only_is_exact():
    hidden = torch.randn(1, 11, HIDDEN, dtype=torch.float64)
    torch.testing.assert_close(branch()(hidden)[0], branch_logits(branch(), hidden))


def test_masked_padding_changes_nothing():
    hidden = torch.randn(3, 11, HIDDEN, dtype=torch.float64)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[1, 6:] = False
    padded = branch()(hidden, mask)
    torch.testing.assert_close(padded[1], branch()(hidden[1:2, :6])[0])
    unmasked = branch()(hidden)
    assert not torch.allclose(unmasked[1], padded[1])  # control: without the mask it would matter
