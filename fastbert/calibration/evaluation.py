"""Evaluation of every speed from one full pass.

Each row runs to full depth once; after that the exits, answers and FLOPs of any rule are
arithmetic. Only timing needs the engine again.

Letters: n rows, E exits, N numbers that a head gives.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastbert.exits.operating_point import OperatingPoint
from fastbert.exits.rules import Rule, replay
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import Engine
from fastbert.inference.finite import refuse_not_finite
from fastbert.inference.tokens import Tokens
from fastbert.tasks.task import Task, answer

log = logging.getLogger(__name__)

#: Rows between two progress reports: enough to fill a GPU.
_ROWS = 4096


@dataclass(frozen=True)
class ExitOutputs:
    """Outputs of every exit for every row."""

    logits: NDArray[np.float32]  # (E, n, N)
    lengths: NDArray[np.int64]  # (n,), tokens; of rows of several windows (n, W), 0 for none
    task: Task

    @cached_property
    def answers(self) -> NDArray[Any]:
        """Answers of each exit: structured (E, n)."""
        said = [answer(self.task, torch.from_numpy(at)) for at in self.logits]
        return np.stack([answers.values for answers in said])

    @property
    def uncertainties(self) -> NDArray[np.float32]:
        """Uncertainty by the task's criterion: (E, n)."""
        return np.asarray(self.task.uncertainty(torch.from_numpy(self.logits)))

    def differs(self, from_answers: NDArray[Any]) -> NDArray[np.bool_]:
        """Where each exit differs from answers (n,): (E, n)."""
        return np.stack([self.task.differs(at, from_answers) for at in self.answers])

    def by(self, criterion: str, within: Sequence[float] = ()) -> "ExitOutputs":
        """The outputs with another criterion of uncertainty, and, for scores, of differing."""
        return replace(self, task=self.task.by(criterion, within))

    def heard(self, rule: Rule) -> "ExitOutputs":
        """The outputs as a rule hears them, by its criterion."""
        found = self.by(rule.criterion, rule.within)
        if rule.temperatures is None:
            return found
        logits, before = torch.from_numpy(self.logits.copy()), None
        for exit in rule.used:
            own = torch.from_numpy(self.logits[exit])
            logits[exit] = before = rule.heard(exit, own, before, self.task.soften)
        return replace(found, logits=logits.numpy())

    def exits(self, rule: Rule) -> NDArray[np.int8]:
        """Where rows leave by a rule: index of the exit (n,)."""
        heard = self.heard(rule)
        return replay(rule, heard.answers, heard.uncertainties)

    def take(self, rows: NDArray[Any]) -> "ExitOutputs":
        """The outputs of rows, by number or mask."""
        return ExitOutputs(self.logits[:, rows], self.lengths[rows], self.task)


@dataclass(frozen=True)
class Outcome:
    """Results of one operating point on n rows."""

    quality: dict[str, float]  # by measure of the task; empty without true labels
    agreement: float  # share of rows with full depth's answer
    mean_layers: float
    exits: list[int]  # rows that leave at each exit
    flops: int  # all rows, heads included
    flops_speedup: float  # full depth's FLOPs divided by these

    def summary(self) -> dict[str, Any]:
        """For JSON: the measures of quality as further keys."""
        found = dict(vars(self))
        quality: dict[str, float] = found.pop("quality")
        return quality | found


def exit_logits(
    engine: Engine,
    tokens: Tokens,
    advance: Callable[[int], object] = lambda rows: None,
    exits: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Logits of `exits`, rising, or of all, for every row, (E, n, N); `advance` is called with the
    number of rows done.

    Raises InputError if answers of more than a few odd rows are not finite, at any exit.
    """
    exits = range(len(engine.exits)) if exits is None else exits
    logits = np.zeros((len(exits), len(tokens), engine.questions.numbers), np.float32)
    odd = 0
    for start in range(0, len(tokens), _ROWS):
        block = np.arange(start, min(start + _ROWS, len(tokens)))
        found = logits[:, block] = engine.exit_logits(tokens.take(block), exits)
        sure = [
            asked.task.uncertainty(torch.from_numpy(found[..., asked.numbers])).isfinite()
            for asked in engine.questions
        ]
        odd += int((~torch.stack(sure).all(0)).any(0).sum())
        refuse_not_finite(odd, len(tokens))
        advance(len(block))
    if odd:
        log.warning(
            "the answers for %d of %d rows are not numbers: they count as wrong and as changed",
            *(odd, len(tokens)),
        )
    return logits


def question_outputs(
    engine: Engine,
    tokens: Tokens,
    advance: Callable[[int], object] = lambda rows: None,
    exits: Sequence[int] | None = None,
) -> list[ExitOutputs]:
    """Outputs of exits for each question; otherwise as `exit_logits`."""
    logits = exit_logits(engine, tokens, advance, exits)
    return [
        ExitOutputs(logits[..., asked.numbers], tokens.costly, asked.task)
        for asked in engine.questions
    ]


def exit_outputs(
    engine: Engine, tokens: Tokens, advance: Callable[[int], object] = lambda rows: None
) -> ExitOutputs:
    """The same for a model with one question."""
    (outputs,) = question_outputs(engine, tokens, advance)
    return outputs


def outcome(
    outputs: ExitOutputs,
    cost: CostModel,
    rule: Rule,
    truth: NDArray[Any] | None = None,
    reference: NDArray[Any] | None = None,
) -> Outcome:
    """Results of a rule; `truth` are the targets of n rows, for single labels class indices, and
    `reference` are answers (n,) to compare with, by default full depth's."""
    outputs, cost = outputs.heard(rule), cost.using(rule.used)
    exits = replay(rule, outputs.answers, outputs.uncertainties)
    answers, task = outputs.answers[exits, np.arange(len(exits))], outputs.task
    depths = np.array([each.depth for each in cost.exits])
    right = outputs.answers[-1] if reference is None else reference
    return Outcome(
        quality={} if truth is None else task.quality(answers, task.truth(truth)),
        agreement=float(1 - task.differs(answers, right).mean()),
        mean_layers=float(depths[exits].mean()),
        exits=np.bincount(exits, minlength=len(depths)).tolist(),
        flops=int(cost.row_flops(outputs.lengths, exits).sum()),
        flops_speedup=cost.speedup(outputs.lengths, exits),
    )


def realised_speedups(
    engine: Engine,
    tokens: Tokens,
    points: list[OperatingPoint],
    repeats: int = 3,
    advance: Callable[[int], object] = lambda rows: None,
) -> list[float]:
    """Seconds at full depth divided by seconds at each point: medians of interleaved runs.

    Full depth is the engine at speed 0, without the work of other heads: with the same batches, so
    that only early exit differs. `advance` is called with rows, each counted once for each of `1 +
    repeats` rounds, at each point and at full depth.
    """
    runs: list[Callable[[], object]] = [partial(engine.full_depth, tokens)]
    runs += [partial(engine.answer, tokens, point.rules()) for point in points]
    seconds = np.zeros((repeats + 1, len(runs)))
    for taken in seconds:
        for k, run in enumerate(runs):
            started = time.perf_counter()
            run()
            taken[k] = time.perf_counter() - started
            advance(len(tokens))
    full, *others = np.median(seconds[1:], axis=0)  # the first round warms up
    return [float(full / other) for other in others]
