"""What every way to a checkpoint ends with: students learn from the teacher, all is saved."""

import logging
import time
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from fastbert.errors import InputError
from fastbert.filesystem import redacted
from fastbert.inference.precision import device, device_name
from fastbert.model import FastBertForSequenceClassification
from fastbert.tokenizer import check_room
from fastbert.training.examples import Examples
from fastbert.training.recipes import DISTIL
from fastbert.training.trainer import self_distil
from fastbert.weights import save_checkpoint
from pipelines.checkpoints.workers import is_first_worker
from pipelines.settings import SelfDistillation

log = logging.getLogger(__name__)


def check_length(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    pairs: bool = False,
) -> None:
    """Raises InputError for inputs that the backbone cannot take, or that hold no text."""
    limit = model.encoder.longest
    if not 3 <= max_length <= limit:
        raise InputError(f"--max-length is {max_length}, expected 3 to {limit} for this backbone")
    check_room(tokenizer, max_length, pairs)


def teach(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Examples,
    settings: SelfDistillation,
    hard_labels: float = 0.0,
) -> None:
    """Self-distil; `hard_labels` is the weight of the corpus's own labels."""
    log.info("self-distilling %d branches on %d rows", len(model.exits) - 1, len(corpus))
    recipe = replace(
        DISTIL,
        epochs=settings.distil_epochs,
        learning_rate=settings.distil_learning_rate,
        batch_size=settings.batch_size,
        seed=settings.seed,
        temperature=settings.temperature,
        hard_labels=hard_labels,
    )
    self_distil(model, tokenizer, corpus, recipe)


def save(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    output: str,
    rows: int,
    started: float,
) -> dict[str, Any]:
    """Save, and say what was made of `rows` rows since `started`, of the monotonic clock."""
    if is_first_worker():
        save_checkpoint(model, tokenizer, output)
    return {
        "output": redacted(output),
        "classes": model.config.label_names,
        "layers": model.encoder.depth,
        "rows": rows,
        "seconds": round(time.monotonic() - started, 1),
        "device": device_name(device()),
    }
