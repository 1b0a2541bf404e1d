"""The calibration job: a checkpoint and a corpus in, an operating point in the checkpoint out."""

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.points import faster_point, promised_point, sample_of, store_point
from fastbert.calibration.promises import Sample
from fastbert.checkpoint import fetch_checkpoint
from fastbert.errors import InputError
from fastbert.exits.exit import chosen
from fastbert.exits.operating_point import Harm, OperatingPoint, Promise
from fastbert.exits.question import Kind
from fastbert.exits.rules import CRITERIA_OF
from fastbert.filesystem import redacted
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.weights import load_checkpoint
from fastbert.writable import check_folder
from pipelines.checkpoints.settings import CalibrateSettings
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples
from pipelines.input.texts import tell_truncated
from pipelines.labelling.progress import counting

log = logging.getLogger(__name__)


def calibrate(settings: CalibrateSettings) -> dict[str, Any]:
    """Choose thresholds, and store them in the checkpoint. Returns the summary.

    Raises InputError where the rows are too few to prove the promise, and where nothing faster
    than full depth keeps it; the checkpoint is left alone then.
    """
    folder = fetch_checkpoint(settings.model)
    check_folder(settings.model)
    label = None if settings.max_accuracy_loss is None else settings.label_column
    columns = InputColumns(settings.text_column, settings.pair_column, label=label)
    model, tokenizer = load_checkpoint(folder, bool(settings.pair_column))
    kind, names = model.config.question.kind, model.config.label_names
    criterion, within = _criterion(settings, kind)
    examples, _ = read_examples(
        list(settings.corpus), columns, names, settings.rows, settings.seed, kind
    )
    tokens = Tokenizer(tokenizer)(examples.texts, examples.pairs, model.config.max_length)
    tell_truncated(tokens.cut, len(tokens), model.config.max_length)
    precision = resolve(settings.precision, device())
    log.info("all layers of %d rows, %d tokens", len(tokens), int(tokens.lengths.sum()))
    with counting(len(tokens)) as counter:
        engine = Engine(model, device(), DTYPES[precision])
        outputs = exit_outputs(engine, tokens, counter.advance)
    truth = None if examples.labels is None else np.asarray(examples.labels)
    sample = sample_of(outputs, truth, CostModel(model), settings.corpus, precision, within)
    point = _point(sample, criterion, settings)
    point = replace(point, name=settings.name or point.name)
    wrong = None if truth is None else float(outputs.differs(outputs.task.truth(truth))[-1].mean())
    point, before = store_point(point, settings.model, sample, wrong, settings.default)
    shown = redacted(settings.model)
    asked = "" if settings.default else f" --operating-point {point.name}"
    log.info("next: fastbert label --model %s%s, and --audit-rate", shown, asked)
    return {
        "model": shown,
        "operating_point": asdict(point),
        "default_operating_point": point.name if settings.default else before,
        "default_before": before,
    }


def _criterion(settings: CalibrateSettings, kind: Kind) -> tuple[str, tuple[float, ...]]:
    """What thresholds are compared with for a kind of question, and the numbers that go with it.
    Raises InputError for what does not go with the kind."""
    known, default = CRITERIA_OF[kind], CalibrateSettings.criterion
    if kind != "score":
        if settings.tolerance is not None or settings.cutoff:
            option = "--cutoff" if settings.cutoff else "--tolerance"
            raise InputError(
                f"{option} is of a score, the checkpoint gives {kind.replace('-', ' ')}"
            )
        if settings.criterion not in ("auto", *known):
            raise InputError(
                f"--criterion is '{settings.criterion}', expected one of {', '.join(known)} for "
                f"{kind.replace('-', ' ')}"
            )
        return settings.criterion, ()
    if settings.max_accuracy_loss is not None:
        raise InputError(
            "--max-accuracy-loss is of labels, which are right or wrong, the checkpoint gives a "
            "score; pass --max-disagreement with --tolerance or --cutoff"
        )
    if settings.criterion != default:
        raise InputError(
            f"--criterion is '{settings.criterion}', which is of labels, the checkpoint gives a "
            "score; leave it out: --tolerance or --cutoff say what counts"
        )
    if settings.tolerance is None and not settings.cutoff:
        raise InputError(
            "the checkpoint gives a score, which hardly ever stays the same to the last digit; "
            "pass --tolerance, how far it may be off, or --cutoff, for each number that rows are "
            "filtered by"
        )
    if settings.cutoff:
        return "cutoff", tuple(sorted({*settings.cutoff}))
    return "tolerance", (float(settings.tolerance or 0),)


def _point(sample: Sample, criterion: str, settings: CalibrateSettings) -> OperatingPoint:
    """What is asked for, as far as the sample proves it."""
    exits = np.array(chosen(settings.exits, sample.cost.exits))
    if settings.speedup is not None:
        return faster_point(sample, settings.speedup, settings.confidence, criterion, exits)
    harm: Harm = "disagreement" if settings.max_accuracy_loss is None else "accuracy-loss"
    share = settings.max_disagreement or settings.max_accuracy_loss
    assert share is not None
    promise = Promise(share, settings.confidence, settings.promise_rows, harm)
    return promised_point(sample, promise, criterion, exits, settings.seed)
