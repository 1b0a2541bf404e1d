"""Evaluation and calibration of a new checkpoint on held-out rows."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from fastbert.calibration.evaluation import ExitOutputs, question_outputs
from fastbert.calibration.points import (
    promised_point,
    sample_of,
    store_point,
    tell_points,
    together,
)
from fastbert.calibration.promises import Sample
from fastbert.errors import InputError
from fastbert.exits.operating_point import OperatingPoint, Promise
from fastbert.exits.question import Question
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.training.examples import Examples
from pipelines.checkpoints.measured import MeasuredVerdict
from pipelines.checkpoints.verdict import CONFIDENCE, Verdict

log = logging.getLogger(__name__)

#: Shares of labels that may change; a new checkpoint promises the first that its held-out rows
#: prove.
_PROMISED = (0.01, 0.02, 0.05, 0.1)
#: Tolerance of a score in these promises, in standard deviations of the scores in training.
_TOLERANCE = 0.25


def outputs_of(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, rows: Examples
) -> list[ExitOutputs]:
    """Answers of each exit to the rows, by question, in the precision of the calibrated point."""
    tokenize = Tokenizer(tokenizer, model.config.windowing)
    tokens = tokenize(rows.texts, rows.pairs, model.config.max_length)
    return question_outputs(Engine(model, device(), DTYPES[resolve("auto", device())]), tokens)


def judge(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    judges: Examples,
    output: str,
    corpus: Sequence[str],
) -> dict[str, Any]:
    """Evaluate the checkpoint at `output` on labelled rows of `corpus`, and calibrate it on them.
    Returns fields for the summary."""
    cost, targets = CostModel(model), np.asarray(judges.labels)
    summary: dict[str, Any] = {}
    points: dict[str, OperatingPoint] = {}
    samples, wrong = [], []
    for asked, outputs in zip(model.questions, outputs_of(model, tokenizer, judges), strict=True):
        if asked.name:
            log.info("question '%s':", asked.name)
        verdict = _verdict(outputs, model.questions.targets(asked, targets))
        verdict.tell([each.depth for each in model.exits])
        found, within = verdict.summary(), _within(asked.task.question)
        samples.append(sample_of(outputs, None, cost, corpus, resolve("auto", device()), within))
        wrong.append(verdict.wrong)
        if point := _provable(samples[-1]):
            points[asked.name] = point
        if asked.name:
            bad = {"exit_code": 3} if "exit_code" in found else {}
            summary |= {"questions": summary.get("questions", {}) | {asked.name: found}} | bad
        else:
            summary |= found
    if len(points) < len(samples):
        if len(samples) > 1:
            log.warning("not calibrated: not every question has a point")
        return summary
    name = "held-out" if len(points) > 1 else next(iter(points.values())).name
    point, _ = store_point(together(points, name), output)
    tell_points(point, samples, wrong)
    return summary | {"operating_point": asdict(point)}


def _provable(sample: Sample) -> OperatingPoint | None:
    """The point with the first promise that the rows prove; logs why there is none."""
    refused: list[InputError] = []
    for share in _PROMISED:
        try:
            point = promised_point(sample, Promise(share, CONFIDENCE))
        except InputError as error:
            refused.append(error)
            continue
        if refused:
            log.warning("no promise of %g: %s", _PROMISED[0], refused[0])
        return point
    log.warning("not calibrated, until fastbert calibrate has more rows: %s", refused[-1])
    return None


def _verdict(outputs: ExitOutputs, truth: NDArray[Any]) -> Verdict | MeasuredVerdict:
    """The verdict for rows with these targets."""
    task = outputs.task
    if task.question.kind == "single-label":
        certain = truth.ndim == 1 or bool((truth.max(1) == 1).all())
        if certain:
            labels = truth if truth.ndim == 1 else truth.argmax(1)
            return Verdict.of(outputs, labels, task.names)
    return MeasuredVerdict.of(outputs, truth)


def _within(question: Question) -> tuple[float, ...]:
    """The tolerance in the promise of a new checkpoint's score."""
    if question.kind != "score":
        return ()
    tolerance = float(f"{_TOLERANCE * question.scale:.2g}")
    log.info(
        f"scores count as equal if they differ by at most {tolerance:g}, a quarter of their "
        "standard deviation; fastbert calibrate --tolerance or --cutoff sets another rule"
    )
    return (tolerance,)
