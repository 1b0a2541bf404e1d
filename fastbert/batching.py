"""Cutting length-sorted rows into batches: pure functions on lengths."""

from typing import Any

import numpy as np

Lengths = np.ndarray[Any, np.dtype[np.int64]]


def longest_first(lengths: Lengths) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Row indices by falling length, ties in input order; the largest batch comes first, so that
    a device too small for it says so at once."""
    return np.argsort(-lengths, kind="stable")


def padded_batches(lengths: Lengths, token_budget: int) -> list[tuple[int, int]]:
    """Ranges [start, stop) over falling `lengths`, each of at most `token_budget` padded tokens.

    A batch is as wide as its first row. A row longer than the budget gets a batch of its own.
    """
    batches = []
    start = 0
    while start < len(lengths):
        stop = min(len(lengths), start + max(1, token_budget // max(1, int(lengths[start]))))
        batches.append((start, stop))
        start = stop
    return batches


def pools(lengths: Lengths, max_tokens: int) -> list[tuple[int, int]]:
    """Ranges [start, stop) over `lengths`, each of at most `max_tokens` real tokens (or one row).

    A pool is what runs layer by layer together; its size bounds the memory of hidden states.
    """
    ranges = []
    start = 0
    ends = np.cumsum(lengths)
    while start < len(lengths):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + max_tokens, side="right")))
        ranges.append((start, stop))
        start = stop
    return ranges
