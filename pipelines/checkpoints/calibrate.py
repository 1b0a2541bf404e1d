"""The calibration job: a checkpoint and a corpus in, an operating point in the checkpoint out."""

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.points import faster_point, promised_point, sample_of, store_point
from fastbert.calibration.promises import Sample
from fastbert.checkpoint import fetch_checkpoint
from fastbert.exits.exit import chosen
from fastbert.exits.operating_point import Harm, OperatingPoint, Promise
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
    examples, _ = read_examples(
        list(settings.corpus), columns, model.config.label_names, settings.rows, settings.seed
    )
    tokens = Tokenizer(tokenizer)(examples.texts, examples.pairs, model.config.max_length)
    tell_truncated(tokens.cut, len(tokens), model.config.max_length)
    precision = resolve(settings.precision, device())
    log.info("all layers of %d rows, %d tokens", len(tokens), int(tokens.lengths.sum()))
    with counting(len(tokens)) as counter:
        engine = Engine(model, device(), DTYPES[precision])
        outputs = exit_outputs(engine, tokens, counter.advance)
    truth = None if examples.labels is None else np.asarray(examples.labels)
    sample = sample_of(outputs, truth, CostModel(model), settings.corpus, precision)
    point = _point(sample, settings)
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


def _point(sample: Sample, settings: CalibrateSettings) -> OperatingPoint:
    """What is asked for, as far as the sample proves it."""
    exits = np.array(chosen(settings.exits, sample.cost.exits))
    if settings.speedup is not None:
        return faster_point(
            sample, settings.speedup, settings.confidence, settings.criterion, exits
        )
    harm: Harm = "disagreement" if settings.max_accuracy_loss is None else "accuracy-loss"
    share = settings.max_disagreement or settings.max_accuracy_loss
    assert share is not None
    promise = Promise(share, settings.confidence, settings.promise_rows, harm)
    return promised_point(sample, promise, settings.criterion, exits, settings.seed)
