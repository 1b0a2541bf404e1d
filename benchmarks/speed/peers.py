"""The official FastBERT algorithm, and padding, as peers of the engine have them."""

import numpy as np
import torch

from fastbert.exits.criteria import normalised_entropy
from fastbert.inference.tokens import Tokens
from fastbert.model import FastBertForSequenceClassification


def padded(tokens: Tokens, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, int64 (n, width)."""
    ids, mask = np.zeros((2, len(rows), width), np.int64)
    for i, row in enumerate(rows):
        span = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
        ids[i, : len(span)], mask[i, : len(span)] = span, 1
    return ids, mask


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean token mask (B, T) as the bias (B, 1, 1, T) that Hugging Face's layers add."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, torch.finfo(dtype).min)[:, None, None, :]


@torch.inference_mode()
def official(
    model: FastBertForSequenceClassification,
    tokens: Tokens,
    thresholds: np.ndarray,
    width: int = 128,
    batch: int = 32,
) -> np.ndarray:
    """The official algorithm: batches in input order, padded to `width`; after each layer the sure
    rows leave, the others are gathered, and the batch goes on with what is left of it.

    For a BERT with an exit after every layer."""
    device, backbone = model.device, model.backbone
    limits = [*thresholds, np.inf]
    labels = torch.zeros(len(tokens), dtype=torch.long, device=device)
    for start in range(0, len(tokens), batch):
        rows = np.arange(start, min(start + batch, len(tokens)))
        ids, mask = (torch.from_numpy(x).to(device) for x in padded(tokens, rows, width))
        mask, left = mask.bool(), torch.from_numpy(rows).to(device)
        hidden = backbone.embeddings(input_ids=ids)
        steps = zip(backbone.encoder.layer, model.branches, limits, strict=True)
        for layer, branch, limit in steps:
            hidden = layer(hidden, additive_mask(mask, hidden.dtype))
            log_p = branch(hidden, mask).float().log_softmax(-1)
            labels[left] = log_p.argmax(-1)
            stays = (normalised_entropy(log_p) >= limit).nonzero().flatten()
            if not len(stays):
                break
            hidden, mask, left = hidden[stays], mask[stays], left[stays]
    return labels.cpu().numpy()
