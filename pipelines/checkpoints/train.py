"""The training job: labelled texts in, an evaluated and calibrated checkpoint out."""

import logging
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from fastbert.encoders.pretrained import locate_backbone
from fastbert.errors import InputError
from fastbert.exits.question import check_names
from fastbert.model import FastBertForSequenceClassification
from fastbert.tasks.questions import Questions
from fastbert.tokenizer import check_tokenizer, load_tokenizer
from fastbert.training.examples import Examples
from fastbert.training.recipes import PAPER_FINETUNE, finetuning
from fastbert.training.trainer import Learnt, finetune
from fastbert.weights import check_output
from pipelines.checkpoints.held_out import halves, hold_out, unseen
from pipelines.checkpoints.judge import judge
from pipelines.checkpoints.questions import all_names, kinds_asked, questions_from
from pipelines.checkpoints.settings import TrainSettings
from pipelines.checkpoints.students import (
    asked,
    distil_recipe,
    save,
    settle_length,
    teach,
    teach_first_exit,
)
from pipelines.checkpoints.workers import is_first_worker, on_workers
from pipelines.input.columns import InputColumns, listed
from pipelines.input.examples import Found, Known, read_examples, read_labelled
from pipelines.input.labels import LOOKS, MISSING, look_alikes

log = logging.getLogger(__name__)


def train(settings: TrainSettings) -> dict[str, Any]:
    """Fine-tune, self-distil, save, evaluate and calibrate. Returns the summary.

    Its `exit_code` is 3 for a model that is not proven to be better than its most frequent class.
    Raises InputError, before training, for unusable data or backbones.
    """
    check_output(settings.output)
    return on_workers(_train, settings, settings.workers)


def _train(settings: TrainSettings) -> dict[str, Any]:
    started = time.monotonic()
    columns = InputColumns(settings.text_column, settings.pair_column, labels=settings.label_column)
    check_names(columns.labels if len(columns.labels) > 1 else [""])
    told = [Known(kind) for kind in kinds_asked(settings.task, columns.labels)]
    examples, found = read_labelled(list(settings.train), columns, told)
    questions, labels = questions_from(examples, found, settings.cutoff), all_names(found)
    for each in found:
        _check_classes(each, len(examples))
    if any(each.kind == "score" for each in found) and settings.distil_epochs == 0:
        raise InputError(
            "--distil-epochs 0 does not go with a score: self-distillation teaches its exits their "
            "error"
        )
    if settings.dev:  # rows that decided when to stop can neither evaluate nor prove
        known = read_labelled(
            list(settings.dev), columns, [Known(each.kind, each.names) for each in found]
        )[0]
        chosen, judges = halves(known, settings.seed)
    else:
        examples, chosen, judges = hold_out(examples, settings.seed)
    corpus = examples
    if settings.unlabeled:
        others = read_examples(list(settings.unlabeled), replace(columns, labels=()))[0]
        corpus = _join(examples, others, Questions(questions, labels).missing)
    judges = judges and unseen(judges, corpus)
    set_seed(settings.seed)
    model = FastBertForSequenceClassification.from_backbone(
        settings.backbone, labels, questions=questions
    )
    model.begin(torch.as_tensor(np.asarray(examples.labels)))
    tokenizer = load_tokenizer(locate_backbone(settings.backbone))
    pairs, backbone = bool(settings.pair_column), model.config.backbone_config()
    settle_length(model, tokenizer, examples, settings)
    check_tokenizer(tokenizer, backbone, pairs, trained=True)
    log.info("fine-tuning on %d rows, %s", len(examples), " and ".join(map(_described, found)))
    by_data = finetuning(len(examples), len(labels), backbone.hidden_size)
    recipe = replace(
        asked(settings, by_data, PAPER_FINETUNE, settings.epochs, settings.learning_rate),
        joint=settings.joint,
    )
    passes = 0.0
    if settings.distil_epochs != 0:
        passes = distil_recipe(settings, len(corpus), len(labels)).epochs * len(corpus)
    passes /= len(examples)
    learnt = finetune(model, tokenizer, examples, chosen, recipe=recipe, distil_epochs=passes)
    _log_fit(learnt, recipe.epochs)
    taught = replace(learnt, epochs=0.0)
    if settings.distil_epochs != 0:
        taught = teach(model, tokenizer, corpus, settings, settings.hard_labels)
    if settings.bag and is_first_worker():
        teach_first_exit(model, tokenizer, corpus, settings.seed)
    summary = save(model, tokenizer, settings.output, taught.truncated, len(corpus), started)
    summary |= {"epochs": learnt.epochs, "distil_epochs": taught.epochs}
    shown = summary["output"]
    if not is_first_worker():
        return summary
    if judges:
        corpus_of = settings.dev or settings.train
        summary |= judge(model, tokenizer, judges, settings.output, corpus_of)
    else:
        log.warning("not evaluated and not calibrated: no row is held out for that; pass more rows")
    if "exit_code" in summary:
        return summary
    if "operating_point" not in summary:
        log.info("next: fastbert calibrate --model %s, with more texts, no labels needed", shown)
    else:
        log.info("next: fastbert label --model %s, with the texts that have no label", shown)
    return summary


def _described(found: Found) -> str:
    """What the model learns from a column."""
    if found.kind == "score":
        return "a score"
    any_number = ", any number of them a row" * (found.kind == "several-labels")
    return f"{len(found.names)} classes{any_number}"


def _check_classes(found: Found, rows: int) -> None:
    """Raises InputError for a single class; warns of classes that look like mistakes."""
    labels, column = found.names, found.column
    if found.kind == "score":
        return
    if len(labels) < 2 and found.kind == "single-label":
        raise InputError(
            f"all rows of --train have one class, {labels[0]!r}, in column '{column}'; expected "
            "two or more; name another one with --label-column"
        )
    for group in look_alikes(labels):
        log.warning(
            "classes that look alike, or empty, are learnt as they are: %s; if they differ only in "
            "%s, write them alike; drop rows whose label is empty",
            *(listed([repr(name) for name in group]), LOOKS),
        )
    if missing := [name for name in labels if name.strip().casefold() in MISSING]:
        log.warning(
            "classes that look like missing labels are learnt as they are: %s; drop those rows if "
            "they have no label",
            listed([repr(name) for name in missing]),
        )
    if len(labels) > rows / 2:
        log.warning(
            "column '%s' has %d classes for %d rows: is it an id, or a quantity?",
            *(column, len(labels), rows),
        )


def _log_fit(learnt: Learnt, epochs: float) -> None:
    """Log whether fine-tuning was long enough."""
    first, before, end = learnt.losses
    stopped = learnt.steps < learnt.planned
    log.info(
        f"fine-tuned in {learnt.steps:,} of {learnt.planned:,} steps; the loss was {first:.3g} at "
        f"the start, {before:.3g} before the last fifth and {end:.3g} at the end"
        + (", and the last evaluations on held-out rows showed no gain" if stopped else "")
        + (f", and was still falling: try --epochs {2 * epochs:g}" if learnt.falling else "")
    )


def _join(first: Examples, second: Examples, missing: Any) -> Examples:
    """Both, the second with `missing` as targets."""
    pairs = None if first.pairs is None else first.pairs + (second.pairs or [])
    known = first.labels or []
    if known and isinstance(known[0], list):  # probabilities of classes
        missing = [math.nan] * len(known[0])
    return replace(
        first, texts=first.texts + second.texts, pairs=pairs, labels=known + [missing] * len(second)
    )
