"""The exit before the first layer, with and without an engine.

Letters: n rows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from fastbert.checkpoint import readable
from fastbert.configuration import load_config
from fastbert.exits.bag import Bag
from fastbert.exits.rules import NO_EXIT, Rule
from fastbert.inference.decisions import Decide, Decisions, Mask, Predictions, row_exits
from fastbert.inference.tokens import Tokens
from fastbert.inference.windows import Pooled
from fastbert.packed.batching import batch_rows

#: Tokens that a bag reads at a time, to fit a processor's cache.
_TOKENS = 1 << 16
#: Prefix of the first exit's head in a checkpoint's weights.
_PREFIX = "branches.0."


@torch.inference_mode()
def leave_before_layers(
    bag: Bag, exit: int, tokens: Tokens, rows: NDArray[np.int64], decide: Decide
) -> Mask:
    """Run rows with these numbers (n,), each of one window, through an exit that reads tokens;
    returns which of them continue, bool (n,)."""
    if not len(rows):
        return np.zeros(0, bool)
    device, logits, start = bag.tokens.device, [], 0
    while start < len(rows):
        stop = start + batch_rows(tokens.lengths[start:], _TOKENS)
        begin, end = tokens.offsets[start], tokens.offsets[stop]
        starts = (tokens.offsets[start:stop] - begin).astype(np.int32)
        ids = torch.from_numpy(tokens.ids[begin:end].copy()).to(device)  # may be read-only
        logits.append(bag.answer(ids, torch.from_numpy(starts).to(device)))
        start = stop
    return decide(exit, rows, torch.cat(logits))()


class FirstExit:
    """The exit before the first layer of a checkpoint, without the rest of the model."""

    def __init__(self, folder: Path, rules: Sequence[Rule]) -> None:
        """Reads only its weights; raises InputError if that fails."""
        config = load_config(folder)
        self.rules, self.questions = rules, config.new_questions()
        self.windows = config.windowing
        weights = {}
        with readable(f"the weights in {folder}", Exception):
            for path in sorted(folder.glob("*.safetensors")):
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118
                        if name.startswith(_PREFIX):
                            weights[name.removeprefix(_PREFIX)] = file.get_tensor(name)
            self.bag = config.new_bag()
            self.bag.load_state_dict(weights)
        self.bag.eval()

    def classify(self, tokens: Tokens) -> list[Predictions]:
        """The answers of rows that leave there, by question; other rows have none, not even for
        questions already decided."""
        n, device = len(tokens), torch.device("cpu")
        decide = Decisions(n, self.rules, self.questions, np.zeros(n, bool), device)
        apart, texts = tokens.apart()
        pooled: Decide = decide
        if self.windows is not None:
            pooled = Pooled(decide, texts, self.questions, self.windows.pool)
        leave_before_layers(self.bag, 0, apart, np.arange(len(apart)), pooled)
        stays = row_exits(decide.found) == NO_EXIT
        for each in decide.each:
            each.found.put(np.flatnonzero(stays), Predictions.none(int(stays.sum()), each.task))
        return decide.found
