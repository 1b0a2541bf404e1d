"""Training jobs: Parquet in, checkpoint out."""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from fastbert.calibration.evaluation import layer_outputs
from fastbert.encoders.pretrained import locate_backbone, longest_input
from fastbert.errors import InputError
from fastbert.filesystem import absolute, shown
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.flops import CostModel
from fastbert.inference.precision import device, device_name, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.training.trainer import (
    DISTIL,
    FINETUNE,
    NO_LABEL,
    Examples,
    Recipe,
    finetune,
    self_distil,
)
from fastbert.weights import load_classifier, save_checkpoint
from pipelines.checkpoints.calibrate import proven_point, store_point
from pipelines.input.examples import Columns, read_examples
from pipelines.settings import CalibrateSettings, DistilSettings, TrainSettings

log = logging.getLogger(__name__)

#: The share of labels that a checkpoint calibrated by training promises to change at most.
PROMISED = 0.01


def train(settings: TrainSettings) -> dict[str, Any]:
    """Fine-tune, self-distil, save, and with dev rows calibrate. Returns the summary.

    Raises InputError, before anything is trained, for unusable data or backbones.
    """
    return _on_workers(_train, settings, settings.workers)


def distil(settings: DistilSettings) -> dict[str, Any]:
    """Put branches on an existing classifier, self-distil them, save. Returns the summary.

    Raises InputError, before anything is trained, for unusable teachers or data.
    """
    return _on_workers(_distil, settings, settings.workers)


def _train(settings: TrainSettings) -> dict[str, Any]:
    started = time.monotonic()
    columns = Columns(settings.text_column, settings.pair_column, settings.label_column)
    examples, labels = read_examples(list(settings.train), columns)
    dev = judges = None
    if settings.dev:  # rows that have picked the epoch can neither judge nor prove any more
        known = read_examples(list(settings.dev), columns, labels)[0]
        order = np.random.default_rng(settings.seed).permutation(len(known)).tolist()
        dev, judges = known.take(order[::2]), known.take(order[1::2])
    corpus = _join(examples, _unlabelled(settings.unlabeled, columns))
    if judges:
        judges = _unseen(judges, corpus)
    set_seed(settings.seed)
    model = FastBertForSequenceClassification.from_backbone(
        settings.backbone, labels, max_length=settings.max_length
    )
    _check_length(model, settings.max_length)
    tokenizer = AutoTokenizer.from_pretrained(locate_backbone(settings.backbone))
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
        log.info("self-distilling %d branches on %d rows", len(model.layers) - 1, len(corpus))
        recipe = replace(_distillation(settings), hard_labels=settings.hard_labels)
        self_distil(model, tokenizer, corpus, recipe)
    summary = _save(model, tokenizer, settings.output, len(corpus), started)
    if judges and _is_first_worker():
        summary |= _judge(model, tokenizer, judges, settings)
    return summary


def _distil(settings: DistilSettings) -> dict[str, Any]:
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
    self_distil(model, tokenizer, corpus, _distillation(settings))
    return _save(model, tokenizer, settings.output, len(corpus), started)


def _distillation(settings: TrainSettings | DistilSettings) -> Recipe:
    return replace(
        DISTIL,
        epochs=settings.distil_epochs,
        learning_rate=settings.distil_learning_rate,
        batch_size=settings.batch_size,
        seed=settings.seed,
        temperature=settings.temperature,
    )


def _unlabelled(urls: tuple[str, ...], columns: Columns) -> Examples | None:
    return read_examples(list(urls), replace(columns, label=None))[0] if urls else None


def _join(first: Examples, second: Examples | None) -> Examples:
    """Both, the second without labels."""
    if second is None:
        return first
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
            len(rows) - len(new),
            len(rows),
        )
    return rows.take(new)


def _check_length(model: FastBertForSequenceClassification, max_length: int) -> None:
    config = model.config.backbone_config()
    limit = longest_input(config)
    if not 3 <= max_length <= limit:
        raise InputError(f"--max-length is {max_length}, expected 3 to {limit} for this backbone")


def _judge(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    judges: Examples,
    settings: TrainSettings,
) -> dict[str, Any]:
    """Accuracy by layer on rows that training has not seen, and the operating point they prove."""
    tokens = Tokenizer(tokenizer)(judges.texts, judges.pairs, model.config.max_length)
    precision = resolve("auto", device())
    outputs = layer_outputs(Engine(model, device(), DTYPES[precision]), tokens)
    right = outputs.labels == np.asarray(judges.labels)  # (L, n)
    found: dict[str, Any] = {
        "dev_rows": len(judges),
        "dev_accuracy_by_layer": [round(float(share), 4) for share in right.mean(1)],
    }
    asked = CalibrateSettings(model=settings.output, corpus=settings.dev, max_disagreement=PROMISED)
    try:
        point = proven_point(asked, outputs, None, CostModel.of(model.config), precision)
    except InputError as error:
        log.warning(
            "not calibrated, for which half of --dev is used; pass more rows there, or to "
            "jobs/calibrate.py others than these: %s",
            error,
        )
        return found
    store_point(point, settings.output)
    return found | {"operating_point": asdict(point)}


def _is_first_worker() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _save(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    output: str,
    rows: int,
    started: float,
) -> dict[str, Any]:
    if _is_first_worker():
        save_checkpoint(model, tokenizer, output)
    return {
        "output": shown(output),
        "classes": model.config.label_names,
        "layers": len(model.layers),
        "rows": rows,
        "seconds": round(time.monotonic() - started, 1),
        "device": device_name(device()),
    }


def _absolute(settings: Any) -> dict[str, Any]:
    """The settings that name places, with every local path absolute."""
    places: dict[str, Any] = {"output": absolute(settings.output)}
    for name in ("train", "dev", "unlabeled", "corpus"):
        if hasattr(settings, name):
            places[name] = tuple(absolute(url) for url in getattr(settings, name))
    for name in ("backbone", "teacher"):  # or the id of a model on the hub
        if hasattr(settings, name) and os.path.isdir(getattr(settings, name)):
            places[name] = os.path.abspath(getattr(settings, name))
    return places


def _on_workers(
    run: Callable[[Any], dict[str, Any]], settings: Any, workers: int
) -> dict[str, Any]:
    """`run(settings)`, here or, for several workers, on Ray Train.

    Each worker runs the same function, in a folder of Ray's; transformers.Trainer finds the process
    group that Ray has made and shares out the batches. The output must be where all of them can
    write.
    """
    if workers == 1:
        return run(settings)
    settings = replace(settings, **_absolute(settings))
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.running.cluster import cluster_resources
    from pipelines.running.quiet import quiet_transformers

    resources = cluster_resources()

    def loop(settings: Any) -> Any:
        quiet_transformers()
        return run(settings)

    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            loop,
            train_loop_config=settings,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=resources.get("GPU", 0) >= workers
            ),
            run_config=RunConfig(storage_path=folder),
        )
        result: Any = trainer.fit()
    summary: dict[str, Any] = result.return_value  # of the first worker
    return summary | {"workers": workers}
