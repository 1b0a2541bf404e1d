"""The distillation job: a classifier and Parquet in, a checkpoint with early exits out."""

import time
from typing import Any

from transformers import set_seed

from fastbert.model import FastBertForSequenceClassification
from fastbert.weights import check_output, load_classifier
from pipelines.checkpoints.students import check_length, save, teach
from pipelines.checkpoints.workers import on_workers
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples
from pipelines.settings import DistilSettings


def distill(settings: DistilSettings) -> dict[str, Any]:
    """Put branches on an existing classifier, self-distil them, save. Returns the summary.

    Raises InputError, before anything is trained, for unusable teachers or data.
    """
    check_output(settings.output)
    return on_workers(_distill, settings, settings.workers)


def _distill(settings: DistilSettings) -> dict[str, Any]:
    started = time.monotonic()
    classifier, tokenizer = load_classifier(settings.teacher, bool(settings.pair_column))
    set_seed(settings.seed)
    model = FastBertForSequenceClassification.from_classifier(
        classifier, max_length=settings.max_length
    )
    check_length(model, tokenizer, settings.max_length, bool(settings.pair_column))
    columns = InputColumns(settings.text_column, settings.pair_column)
    corpus, _ = read_examples(list(settings.corpus), columns)
    teach(model, tokenizer, corpus, settings)
    return save(model, tokenizer, settings.output, len(corpus), started)
