"""Held-out rows: some decide when training stops, others evaluate the model."""

import logging
from typing import Any

import numpy as np

from fastbert.training.examples import Examples

log = logging.getLogger(__name__)

#: Share of the labelled rows that is held out; least rows, if at most a fifth of all; most rows.
_SHARE, _LEAST, _MOST = 10, 400, 10_000
#: Least held-out rows of which a quarter decides when to stop; with fewer, all evaluate.
_CHOOSING = 400
#: Most rows that decide when to stop: they are evaluated ten times.
_MOST_CHOOSING = 1_000


def hold_out(rows: Examples, seed: int) -> tuple[Examples, Examples | None, Examples | None]:
    """The rows to learn from, to decide when to stop, and to evaluate, drawn with `seed`; None if
    there are too few."""
    n = len(rows)
    held = min(max(n // _SHARE, min(n // 5, _LEAST)), _MOST)
    choosing = min(held // 4, _MOST_CHOOSING) if held >= _CHOOSING else 0
    rest, chosen, judges = draw(rows, seed, choosing, held - choosing)
    log.info(
        "%d of the %d rows of --train are held out, drawn with seed %d: %d decide when training "
        "stops, %d evaluate the model; --dev gives other rows for that",
        *(held, n, seed, choosing, held - choosing),
    )
    return rest, chosen, judges


def draw(rows: Examples, seed: int, *sizes: int) -> tuple[Any, ...]:
    """The remaining rows, in order, and, for each size, so many others; None for none."""
    order = np.random.default_rng(seed).permutation(len(rows))
    *parts, rest = np.split(order, np.cumsum(sizes))
    return rows.take(np.sort(rest).tolist()), *(_some(rows, part) for part in parts)


def halves(rows: Examples, seed: int) -> tuple[Examples | None, Examples | None]:
    """Rows of --dev: those that decide when to stop, and those that evaluate."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return _some(rows, order[::2][:_MOST_CHOOSING]), _some(rows, order[1::2])


def _some(rows: Examples, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Examples | None:
    return rows.take(chosen.tolist()) if len(chosen) else None


def unseen(rows: Examples, corpus: Examples) -> Examples | None:
    """The rows whose texts are not in the corpus: the others measure what a model has memorised."""
    known = set(zip(corpus.texts, corpus.pairs or corpus.texts, strict=True))
    texts = zip(rows.texts, rows.pairs or rows.texts, strict=True)
    new = [i for i, key in enumerate(texts) if key not in known]
    if len(new) < len(rows):
        log.warning(
            "%d of the %d held-out rows that evaluate the model have a text that it also learns "
            "from: left out",
            *(len(rows) - len(new), len(rows)),
        )
    return rows.take(new) if new else None
