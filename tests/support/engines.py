"""Engines so small in memory that a handful of rows makes several batches and pools."""

from functools import cache

import numpy as np
import torch

from fastbert.exits.rules import Threshold
from fastbert.inference.engine import Engine
from support.models import FAMILIES, tiny_fastbert, with_bag

#: Exits are not layers: before the first layer, two at one depth, none at another.
SCATTERED = [{"depth": 0}, {"depth": 1}, {"depth": 1}, {"depth": 3, "head": "adopted"}]
KINDS = [*FAMILIES, "scattered", "bag"]


@cache
def model(kind: str):
    """In float64, so that rounding explains no difference that a bug has made."""
    if kind == "scattered":
        return tiny_fastbert("bert", exits=SCATTERED).double()
    if kind == "bag":
        return with_bag(tiny_fastbert("bert")).double()
    return tiny_fastbert(kind).double()


def engine(kind: str, batch_tokens: int = 50, pool_tokens: int = 130) -> Engine:
    """Limits so small that a handful of rows makes several batches and pools."""
    return made(Engine, kind, batch_tokens=batch_tokens, pool_tokens=pool_tokens)


def made(cls: type[Engine], kind: str, **options) -> Engine:
    """An engine that remembers its model, for the reference."""
    built = cls(model(kind), dtype=torch.float64, **options)
    built.model = model(kind)
    return built


def at(threshold: float, engine: Engine) -> Threshold:
    """The paper's rule: one threshold for all exits."""
    return Threshold.of(np.full(len(engine.exits) - 1, threshold))


def soft(threshold: float, engine: Engine) -> Threshold:
    """With a temperature for each exit, and what earlier ones have said."""
    temperatures = np.geomspace(0.5, 1.7, len(engine.exits) - 1)
    return Threshold.of(
        np.full(len(temperatures), threshold), "tempered-entropy", temperatures.tolist()
    )
