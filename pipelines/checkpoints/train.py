"""The training job: labelled Parquet in, a checkpoint out, with dev rows a calibrated one."""

import logging
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, set_seed

from fastbert.calibration.evaluation import exit_outputs
from fastbert.calibration.points import promised_point, sample_of, store_point
from fastbert.encoders.pretrained import locate_backbone
from fastbert.errors import InputError
from fastbert.exits.operating_point import Promise
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.tasks.task import NO_LABEL
from fastbert.tokenizer import check_tokenizer, load_tokenizer
from fastbert.training.examples import Examples
from fastbert.training.recipes import FINETUNE
from fastbert.training.trainer import finetune
from fastbert.weights import check_output
from pipelines.checkpoints.students import check_length, save, teach
from pipelines.checkpoints.workers import is_first_worker, on_workers
from pipelines.input.columns import InputColumns, listed
from pipelines.input.examples import read_examples
from pipelines.input.labels import LOOKS, MISSING, look_alikes
from pipelines.settings import TrainSettings

log = logging.getLogger(__name__)

#: What a checkpoint calibrated by training promises, about all rows that could ever come.
PROMISED = Promise(0.01, 0.95)


def train(settings: TrainSettings) -> dict[str, Any]:
    """Fine-tune, self-distil, save, and with dev rows calibrate. Returns the summary.

    Raises InputError, before anything is trained, for unusable data or backbones.
    """
    check_output(settings.output)
    return on_workers(_train, settings, settings.workers)


def _train(settings: TrainSettings) -> dict[str, Any]:
    started = time.monotonic()
    columns = InputColumns(settings.text_column, settings.pair_column, label=settings.label_column)
    examples, labels = read_examples(list(settings.train), columns)
    if len(labels) < 2:
        raise InputError(
            f"all rows of --train have one class, {labels[0]!r}, in column "
            f"'{settings.label_column}'; expected two or more; name another one with --label-column"
        )
    for group in look_alikes(labels):
        log.warning(
            "classes that look alike, or like nothing, are learnt as they are: %s; where they "
            "differ only in %s, write them alike; drop rows whose label is empty",
            *(listed([repr(name) for name in group]), LOOKS),
        )
    if missing := [name for name in labels if name.strip().casefold() in MISSING]:
        log.warning(
            "classes that look like missing labels are learnt as they are: %s; drop those rows if "
            "they have no label",
            listed([repr(name) for name in missing]),
        )
    if len(labels) > len(examples) / 2:
        log.warning(
            "column '%s' has %d classes for %d rows: is it an id, or a quantity?",
            *(settings.label_column, len(labels), len(examples)),
        )
    dev = judges = None
    if settings.dev:  # rows that have picked the epoch can neither judge nor prove any more
        known = read_examples(list(settings.dev), columns, labels)[0]
        order = np.random.default_rng(settings.seed).permutation(len(known)).tolist()
        dev, judges = known.take(order[::2]), known.take(order[1::2])
    corpus = examples
    if settings.unlabeled:
        others = read_examples(list(settings.unlabeled), replace(columns, label=None))[0]
        corpus = _join(examples, others)
    if judges:
        judges = _unseen(judges, corpus)
    set_seed(settings.seed)
    model = FastBertForSequenceClassification.from_backbone(
        settings.backbone, labels, max_length=settings.max_length
    )
    tokenizer = load_tokenizer(locate_backbone(settings.backbone))
    pairs, backbone = bool(settings.pair_column), model.config.backbone_config()
    check_length(model, tokenizer, settings.max_length, pairs)
    check_tokenizer(tokenizer, backbone, pairs, trained=True)
    log.info("fine-tuning on %d rows, %d classes", len(examples), len(labels))
    recipe = replace(
        FINETUNE,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        seed=settings.seed,
        joint=settings.joint,
    )
    finetune(model, tokenizer, examples, dev, recipe)
    if settings.distil_epochs:
        teach(model, tokenizer, corpus, settings, settings.hard_labels)
    summary = save(model, tokenizer, settings.output, len(corpus), started)
    if judges and is_first_worker():
        summary |= _judge(model, tokenizer, judges, settings)
    elif settings.dev:
        log.warning("not judged and not calibrated: no row of --dev is left for that; pass more")
    return summary


def _join(first: Examples, second: Examples) -> Examples:
    """Both, the second without labels."""
    pairs = None if first.pairs is None else first.pairs + (second.pairs or [])
    labels = None if first.labels is None else first.labels + [NO_LABEL] * len(second)
    return Examples(first.texts + second.texts, pairs, labels)


def _unseen(rows: Examples, corpus: Examples) -> Examples:
    """The rows whose texts are not in the corpus: with the others a model shows what it has learnt
    by heart."""
    known = set(zip(corpus.texts, corpus.pairs or corpus.texts, strict=True))
    texts = zip(rows.texts, rows.pairs or rows.texts, strict=True)
    new = [i for i, key in enumerate(texts) if key not in known]
    if len(new) < len(rows):
        log.warning(
            "%d of the %d rows of --dev that judge the model are in --train or --unlabeled, too: "
            "left out",
            *(len(rows) - len(new), len(rows)),
        )
    return rows.take(new)


def _judge(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    judges: Examples,
    settings: TrainSettings,
) -> dict[str, Any]:
    """Accuracy by layer on rows that training has not seen, and the operating point they prove."""
    tokens = Tokenizer(tokenizer)(judges.texts, judges.pairs, model.config.max_length)
    precision = resolve("auto", device())
    outputs = exit_outputs(Engine(model, device(), DTYPES[precision]), tokens)
    right = ~outputs.differs(outputs.task.truth(np.asarray(judges.labels)))  # (E, n)
    found: dict[str, Any] = {
        "dev_rows": len(judges),
        "dev_accuracy_by_layer": [round(float(share), 4) for share in right.mean(1)],
    }
    sample = sample_of(outputs, None, CostModel(model), settings.dev, precision)
    try:
        point = promised_point(sample, PROMISED)
    except InputError as error:
        log.warning(
            "not calibrated, for which half of --dev is used; pass more rows there, or to "
            "fastbert calibrate others than these: %s",
            error,
        )
        return found
    store_point(point, settings.output)
    return found | {"operating_point": asdict(point)}
