"""The calibration job: a checkpoint and a corpus in, an operating point in the checkpoint out."""

import logging
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.goal import Goal, proven_point, store_point
from fastbert.checkpoint import fetch_checkpoint, load_tokenizer
from fastbert.filesystem import shown
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.weights import load_model
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples
from pipelines.labelling.progress import counting
from pipelines.settings import CalibrateSettings

log = logging.getLogger(__name__)


def calibrate(settings: CalibrateSettings) -> dict[str, Any]:
    """Choose thresholds, store them as the checkpoint's default point. Returns the summary.

    Raises InputError where the rows are too few to prove the promise, and where nothing faster
    than full depth keeps it; the checkpoint is left alone then.
    """
    goal = Goal(**{field.name: getattr(settings, field.name) for field in fields(Goal)})
    folder = fetch_checkpoint(settings.model)
    label = None if goal.max_accuracy_loss is None else settings.label_column
    columns = InputColumns(settings.text_column, settings.pair_column, label=label)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    examples, _ = read_examples(
        list(settings.corpus), columns, model.config.label_names, settings.rows, settings.seed
    )
    tokens = Tokenizer(tokenizer)(examples.texts, examples.pairs, model.config.max_length)
    precision = resolve(settings.precision, device())
    log.info("all layers of %d rows, %d tokens", len(tokens), int(tokens.lengths.sum()))
    with counting(len(tokens)) as counter:
        engine = Engine(model, device(), DTYPES[precision])
        outputs = exit_outputs(engine, tokens, counter.advance)
    truth = None if examples.labels is None else np.asarray(examples.labels)
    cost = CostModel(model)
    point = proven_point(goal, outputs, truth, cost, settings.corpus, precision)
    store_point(point, settings.model)
    return {"model": shown(settings.model), "operating_point": asdict(point)}
