"""Training jobs: Parquet in, checkpoint out."""

import logging
import time
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoTokenizer, set_seed

from fastbert.backbone import locate_backbone
from fastbert.checkpoint import load_classifier, save_checkpoint
from fastbert.errors import InputError
from fastbert.model import FastBertForSequenceClassification
from fastbert.training import DISTIL, FINETUNE, Examples, finetune, self_distil
from pipelines.corpus import Columns, read_examples
from pipelines.settings import DistilSettings, TrainSettings

log = logging.getLogger(__name__)


def train(settings: TrainSettings) -> dict[str, Any]:
    """Fine-tune, self-distil, save. Returns the summary.

    Raises InputError, before anything is trained, for unusable data or backbones.
    """
    started = time.monotonic()
    columns = Columns(settings.text_column, settings.pair_column, settings.label_column)
    examples, labels = read_examples(list(settings.train), columns)
    dev = read_examples(list(settings.dev), columns, labels)[0] if settings.dev else None
    corpus = _join(examples, _unlabelled(settings.unlabeled, columns))
    set_seed(settings.seed)
    model = FastBertForSequenceClassification.from_backbone(
        settings.backbone, labels, max_length=settings.max_length
    )
    _check_length(model, settings.max_length)
    tokenizer = AutoTokenizer.from_pretrained(locate_backbone(settings.backbone))
    log.info("fine-tuning on %d rows, %d classes", len(examples), len(labels))
    common = {"batch_size": settings.batch_size, "seed": settings.seed}
    recipe = replace(FINETUNE, epochs=settings.epochs, learning_rate=settings.learning_rate)
    finetune(model, tokenizer, examples, dev, replace(recipe, **common))
    log.info("self-distilling %d branches on %d rows", len(model.layers) - 1, len(corpus))
    recipe = replace(
        DISTIL, epochs=settings.distil_epochs, learning_rate=settings.distil_learning_rate
    )
    self_distil(model, tokenizer, corpus, replace(recipe, **common))
    save_checkpoint(model, tokenizer, settings.output)
    return _summary(model, settings.output, len(corpus), started)


def distil(settings: DistilSettings) -> dict[str, Any]:
    """Put branches on an existing classifier, self-distil them, save. Returns the summary.

    Raises InputError, before anything is trained, for unusable teachers or data.
    """
    started = time.monotonic()
    classifier, tokenizer = load_classifier(settings.teacher)
    set_seed(settings.seed)
    model = FastBertForSequenceClassification.from_classifier(
        classifier, max_length=settings.max_length
    )
    _check_length(model, settings.max_length)
    columns = Columns(settings.text_column, settings.pair_column)
    corpus, _ = read_examples(list(settings.corpus), columns)
    log.info("self-distilling %d branches on %d rows", len(model.layers) - 1, len(corpus))
    recipe = replace(
        DISTIL,
        epochs=settings.distil_epochs,
        learning_rate=settings.distil_learning_rate,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    self_distil(model, tokenizer, corpus, recipe)
    save_checkpoint(model, tokenizer, settings.output)
    return _summary(model, settings.output, len(corpus), started)


def _unlabelled(urls: tuple[str, ...], columns: Columns) -> Examples | None:
    return read_examples(list(urls), replace(columns, label=None))[0] if urls else None


def _join(first: Examples, second: Examples | None) -> Examples:
    if second is None:
        return Examples(first.texts, first.pairs)
    pairs = None if first.pairs is None else first.pairs + (second.pairs or [])
    return Examples(first.texts + second.texts, pairs)


def _check_length(model: FastBertForSequenceClassification, max_length: int) -> None:
    config = model.config.backbone_config()
    # RoBERTa's positions start behind the padding id.
    offset = config.pad_token_id + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
    limit = config.max_position_embeddings - offset
    if not 3 <= max_length <= limit:
        raise InputError(f"--max-length is {max_length}, expected 3 to {limit} for this backbone")


def _summary(
    model: FastBertForSequenceClassification, output: str, rows: int, started: float
) -> dict[str, Any]:
    return {
        "output": output,
        "classes": model.config.label_names,
        "layers": len(model.layers),
        "rows": rows,
        "seconds": round(time.monotonic() - started, 1),
        "device": str(torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")),
    }
