"""What rows that a model has not learnt from say of it, in plain lines."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from fastbert.calibration.evaluation import ExitOutputs, exit_outputs
from fastbert.calibration.points import promised_point, sample_of, store_point
from fastbert.errors import InputError
from fastbert.exits.operating_point import Promise
from fastbert.exits.question import Question
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.training.examples import Examples
from pipelines.checkpoints.verdict import CONFIDENCE, Verdict
from pipelines.checkpoints.verdicts import MeasuredVerdict

log = logging.getLogger(__name__)

#: Shares of labels that may change, of which a new checkpoint promises the first that its held-out
#: rows prove.
_PROMISED = (0.01, 0.02, 0.05, 0.1)
#: Of a score, how far it may be off in these promises, in standard deviations of the scores that
#: it was learnt from.
_TOLERANCE = 0.25


def outputs_of(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, rows: Examples
) -> ExitOutputs:
    """What each exit says of the rows, in the precision that a calibrated point is proven in."""
    tokens = Tokenizer(tokenizer)(rows.texts, rows.pairs, model.config.max_length)
    return exit_outputs(Engine(model, device(), DTYPES[resolve("auto", device())]), tokens)


def judge(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    judges: Examples,
    output: str,
    corpus: Sequence[str],
) -> dict[str, Any]:
    """Judge the checkpoint at `output` by labelled rows of `corpus`, and calibrate it by them.
    Returns what the summary says of it."""
    outputs, truth = outputs_of(model, tokenizer, judges), np.asarray(judges.labels)
    verdict = _verdict(outputs, truth)
    verdict.tell([each.depth for each in model.exits])
    found, within = verdict.summary(), _within(outputs.task.question)
    precision = resolve("auto", device())
    sample = sample_of(outputs, None, CostModel(model), corpus, precision, within)
    refused: list[InputError] = []
    for share in _PROMISED:
        try:
            point = promised_point(sample, Promise(share, CONFIDENCE))
        except InputError as error:
            refused.append(error)
            continue
        if refused:
            log.warning("no promise of %g: %s", _PROMISED[0], refused[0])
        point, _ = store_point(point, output, sample, wrong=verdict.wrong)
        return found | {"operating_point": asdict(point)}
    log.warning("not calibrated, until fastbert calibrate has more rows: %s", refused[-1])
    return found


def _verdict(outputs: ExitOutputs, truth: NDArray[Any]) -> Verdict | MeasuredVerdict:
    """Of rows with these targets."""
    task = outputs.task
    if task.question.kind == "single-label" and truth.ndim == 1:
        return Verdict.of(outputs, truth, task.names)
    return MeasuredVerdict.of(outputs, truth)


def _within(question: Question) -> tuple[float, ...]:
    """What the promise of a new checkpoint's score is about."""
    if question.kind != "score":
        return ()
    tolerance = float(f"{_TOLERANCE * question.scale:.2g}")
    log.info(
        f"scores count as the same where they are no more than {tolerance:g} apart, a quarter of "
        "their standard deviation; fastbert calibrate --tolerance or --cutoff asks for others"
    )
    return (tolerance,)
