"""The last steps of all jobs that make a checkpoint: students learn from the teacher; save."""

import logging
import time
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from fastbert.calibration.evaluation import exit_logits
from fastbert.errors import InputError
from fastbert.exits.windows import Windows
from fastbert.filesystem import redacted
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, device_name, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.inference.windows import in_windows
from fastbert.model import FastBertForSequenceClassification
from fastbert.tokenizer import check_room
from fastbert.training.bag import occurring, teach_bag
from fastbert.training.examples import Examples
from fastbert.training.length import fitting_length
from fastbert.training.recipes import PAPER_DISTIL, PAPER_LENGTH, Recipe, distilling
from fastbert.training.trainer import Learnt, self_distil
from fastbert.weights import save_checkpoint
from pipelines.checkpoints.settings import SelfDistillation
from pipelines.checkpoints.workers import is_first_worker
from pipelines.input.texts import tell_truncated
from pipelines.labelling.progress import counting

log = logging.getLogger(__name__)


def settle_length(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Examples,
    settings: SelfDistillation,
    shortest: int = 0,
) -> None:
    """Set the model's longest input, as given or to fit the texts and at least `shortest`.

    Raises InputError if the backbone does not support it, or if it has no room for a text.
    """
    length = settings.max_length
    if length is None and settings.recipe == "paper":
        length = min(PAPER_LENGTH, model.encoder.longest)
    if length is None:
        # Backbones with relative positions only allow more, at a cost that grows with the square.
        longest = model.config.backbone_config().max_position_embeddings
        longest = min(longest, model.encoder.longest)
        length, share = fitting_length(tokenizer, texts, longest, shortest)
        all_of = "takes" if longest == model.encoder.longest else "was made for"
        log.info(
            f"texts are read up to {length} tokens, "
            + (f"the most that the backbone {all_of}, " if length == longest else "")
            + f"which holds {share:.1%} of them whole"
        )
    check_length(model, tokenizer, length, texts.pairs is not None)
    model.config.max_length = length
    if settings.windows is not None:
        if texts.pairs is not None:
            raise InputError("--windows divides single texts, not pairs; leave it out")
        most = None if settings.windows == "all" else int(settings.windows)
        windows = (
            Windows(1, settings.stride)
            if settings.pool == "first"
            else Windows(most, settings.stride, settings.pool)
        )
        model.config.windows = msgspec.structs.asdict(windows)
        _ = model.config.windowing  # raises
        in_windows(Tokens.of([[0]]), tokenizer, length, windows)  # raises


def check_length(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    pairs: bool = False,
) -> None:
    """Raises InputError for a length that the backbone does not support, or too short for a
    text."""
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
) -> Learnt:
    """Self-distil; `hard_labels` is the weight of the corpus's own labels."""
    rows = len(corpus)
    if windows := model.config.windowing:
        read = Tokenizer(tokenizer, windows)(corpus.texts, corpus.pairs, model.config.max_length)
        rows = len(read.apart()[0])
        log.info("%d texts have %d windows", len(corpus), rows)
    log.info("self-distilling %d branches on %d rows", len(model.exits) - 1, rows)
    recipe = replace(
        distil_recipe(settings, rows, len(model.config.label_names)),
        temperature=settings.temperature,
        hard_labels=hard_labels,
    )
    return self_distil(model, tokenizer, corpus, recipe)


def teach_first_exit(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Examples,
    seed: int,
) -> int:
    """Add an exit before the first layer that learns full depth's answers to these texts. Returns
    how many of them are truncated. Pairs of texts get none: words alone do not show whether two
    texts belong together."""
    if texts.pairs is not None:
        log.info("no exit before the first layer: for pairs of texts, words alone are not enough")
        return 0
    tokenize = Tokenizer(tokenizer, model.config.windowing)
    read = tokenize(texts.texts, None, model.config.max_length)
    tokens, _ = read.apart()  # it learns full depth's answers to windows
    log.info("full depth's answers to %d texts, for the exit before the first layer", len(tokens))
    engine = Engine(model, device(), DTYPES[resolve("auto", device())])
    with counting(len(tokens)) as counter:
        (wanted,) = exit_logits(engine, tokens, counter.advance, [len(model.exits) - 1])
    known = np.flatnonzero(np.isfinite(wanted).all(1))
    started = time.monotonic()
    backbone: Any = model.backbone
    words = backbone.get_input_embeddings().weight
    tokens, answers = tokens.take(known), torch.from_numpy(wanted[known])
    bag = model.add_bag(*occurring(tokens, len(words)))
    teach_bag(bag, model.questions, words.detach(), tokens, answers, seed)
    bag.to(model.device)
    log.info(
        "the exit before the first layer knows %d tokens and %d pairs of tokens, learnt in %.0f s",
        *(len(bag.tokens), len(bag.pairs), time.monotonic() - started),
    )
    return read.cut


def distil_recipe(settings: SelfDistillation, rows: int, classes: int) -> Recipe:
    """The recipe of self-distillation on this number of rows."""
    epochs, rate = settings.distil_epochs, settings.distil_learning_rate
    return asked(settings, distilling(rows, classes), PAPER_DISTIL, epochs, rate)


def asked(
    settings: SelfDistillation,
    chosen: Recipe,
    paper: Recipe,
    epochs: float | None,
    learning_rate: float | None,
) -> Recipe:
    """The `chosen` recipe of a step, or the paper's, with the user's values in place."""
    recipe = paper if settings.recipe == "paper" else chosen
    return replace(
        recipe,
        batch_size=settings.batch_size,
        seed=settings.seed,
        epochs=epochs or recipe.epochs,
        learning_rate=learning_rate or recipe.learning_rate,
    )


def save(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    output: str,
    truncated: int,
    rows: int,
    started: float,
) -> dict[str, Any]:
    """Save, and return fields for the summary; `rows` rows, of which `truncated` are cut; `started`
    is a time of the monotonic clock."""
    if is_first_worker():
        save_checkpoint(model, tokenizer, output)
    tell_truncated(truncated, rows, model.config.max_length, model.config.windowing)
    return {
        "output": redacted(output),
        "classes": model.config.label_names,
        "layers": model.encoder.depth,
        "max_length": model.config.max_length,
        "rows": rows,
        "truncated_rows": truncated,
        "seconds": round(time.monotonic() - started, 1),
        "device": device_name(device()),
    }
