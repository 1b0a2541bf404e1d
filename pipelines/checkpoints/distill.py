"""The distillation job: a classifier and Parquet in, a checkpoint with early exits out."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, set_seed

from fastbert.calibration.evaluation import ExitOutputs
from fastbert.checkpoint import fetch_checkpoint
from fastbert.model import FastBertForSequenceClassification
from fastbert.training.examples import Examples
from fastbert.weights import check_output, load_checkpoint
from pipelines.checkpoints.evaluate import stored_points
from pipelines.checkpoints.held_out import draw
from pipelines.checkpoints.judge import outputs_of
from pipelines.checkpoints.questions import doubt_one_label, first_answers, scaled
from pipelines.checkpoints.settings import DistilSettings
from pipelines.checkpoints.students import save, settle_length, teach, teach_first_exit
from pipelines.checkpoints.teachers import load_teachers
from pipelines.checkpoints.workers import is_first_worker, on_workers
from pipelines.input.columns import InputColumns
from pipelines.input.examples import read_examples

log = logging.getLogger(__name__)

#: Share of the corpus that is held out to compare exits, and most rows; smaller corpora hold out
#: none.
_SHARE, _MOST, _FEWEST = 10, 2_000, 500


#: The measure reported for each exit.
_SAME = {
    "single-label": "the same label as full depth",
    "several-labels": "the same labels as full depth",
    "score": "explained variance of full depth's score",
}


def distill(settings: DistilSettings) -> dict[str, Any]:
    """Put branches on an existing classifier, self-distil them, save. Returns the summary.

    Its `exit_code` is 3 if no exit except the last is better than the classifier's most frequent
    answer. Raises InputError, before training, for unusable teachers or data.
    """
    check_output(settings.output)
    if settings.add_bag:
        return _add_bag(settings)
    summary = give_exits(settings)
    log.info("next: fastbert calibrate, with texts that are not in this corpus")
    return summary


def give_exits(settings: DistilSettings) -> dict[str, Any]:
    """`distill`, without the hint of the next step."""
    return on_workers(_distill, settings, settings.workers)


def _distill(settings: DistilSettings) -> dict[str, Any]:
    started = time.monotonic()
    columns = InputColumns(settings.text_column, settings.pair_column)
    corpus, _ = read_examples(list(settings.corpus), columns)
    model, tokenizer = untaught(settings, corpus)
    corpus, judges = _held_out(corpus, settings.seed)
    learnt = teach(model, tokenizer, corpus, settings)
    if settings.bag and is_first_worker():
        teach_first_exit(model, tokenizer, corpus, settings.seed)
    summary = save(model, tokenizer, settings.output, learnt.truncated, len(corpus), started)
    summary["distil_epochs"] = learnt.epochs
    if is_first_worker():
        judged = judges or corpus.take(range(min(len(corpus), _MOST)))
        summary |= _compare(model, outputs_of(model, tokenizer, judged), bool(judges))
    return summary


def untaught(
    settings: DistilSettings, corpus: Examples, shortest: int = 0
) -> tuple[FastBertForSequenceClassification, PreTrainedTokenizerBase]:
    """The classifier with untrained branches, of a length that fits these texts."""
    teachers, tokenizer = load_teachers(settings)
    questions = teachers.questions
    set_seed(settings.seed)
    model = teachers.model(questions)
    settle_length(model, tokenizer, corpus, settings, shortest)
    answers = first_answers(model, tokenizer, corpus)
    if any(question.kind == "score" for question in questions):
        length, questions = model.config.max_length, scaled(model, answers)
        set_seed(settings.seed)
        model = teachers.model(questions, max_length=length)
    for own, question in zip(teachers.heads, questions, strict=True):
        unsaid = settings.task == ("auto",) and own.config.problem_type is None
        if unsaid and question.kind == "single-label" and len(questions) == 1:
            doubt_one_label(answers)
    return model, tokenizer


def _add_bag(settings: DistilSettings) -> dict[str, Any]:
    started = time.monotonic()
    model, tokenizer = load_checkpoint(fetch_checkpoint(settings.teacher[0]))
    corpus, _ = read_examples(list(settings.corpus), InputColumns(settings.text_column))
    corpus, judges = _held_out(corpus, settings.seed)
    config, had = model.config, model.exits[0].head == "bag"
    points = {point.name: point for point in stored_points(config)}
    truncated = teach_first_exit(model, tokenizer, corpus, settings.seed)
    kept = {
        name: point
        for name, point in points.items()
        if not had or not any(each.thresholds[0] for each in point.each())
    }
    for name in points.keys() - kept.keys():
        log.warning("the operating point '%s' used the former exit, and is removed", name)
    config.operating_points = {
        name: (point if had else point.with_bag()).settings() for name, point in kept.items()
    }
    if config.default_operating_point not in kept:
        config.default_operating_point = None
    summary = save(model, tokenizer, settings.output, truncated, len(corpus), started)
    judged = judges or corpus.take(range(min(len(corpus), _MOST)))
    summary |= _compare(model, outputs_of(model, tokenizer, judged), bool(judges))
    log.info(
        "next: fastbert calibrate --model %s, with texts that are not in this corpus",
        summary["output"],
    )
    return summary


def _held_out(corpus: Examples, seed: int) -> tuple[Examples, Examples | None]:
    """The texts to learn from, and, if there are enough, those to compare exits."""
    held = min(len(corpus) // _SHARE, _MOST) if len(corpus) >= _FEWEST else 0
    rest, judges = draw(corpus, seed, held)
    return rest, judges


def _compare(
    model: FastBertForSequenceClassification, outputs: Sequence[ExitOutputs], held_out: bool
) -> dict[str, Any]:
    """Log how often each exit agrees with the last one, for each question."""
    summary: dict[str, Any] = {}
    for asked, each in zip(model.questions, outputs, strict=True):
        found = _compare_one(asked.name, [exit.depth for exit in model.exits], each, held_out)
        bad = {"exit_code": found.pop("exit_code")} if "exit_code" in found else {}
        if asked.name:
            found = {"questions": summary.get("questions", {}) | {asked.name: found}}
        summary |= found | bad
    return summary


def _compare_one(
    name: str, depths: Sequence[int], outputs: ExitOutputs, held_out: bool
) -> dict[str, Any]:
    task, deep, rows = outputs.task, outputs.answers[-1], len(outputs.lengths)
    agreement = np.array([next(iter(task.quality(at, deep).values())) for at in outputs.answers])
    frequent, share = task.constant(deep)
    log.info(
        "%s%s, by layer: %s (on %d rows that are %s)",
        f"question '{name}': " if name else "",
        _SAME[task.question.kind],
        "  ".join(f"{k} {a:.1%}" for k, a in zip(depths[:-1], agreement, strict=False)),
        rows,
        "held out" if held_out else "also learnt from, because the corpus is small",
    )
    if same := not task.differs(deep, deep[:1]).any():
        log.warning(
            f"full depth answers {frequent!r} to all of {rows} texts: are teacher and tokenizer "
            "the right ones, and does the corpus have texts of other classes?"
        )
    found: dict[str, Any] = {"agreement_by_layer": [round(float(each), 4) for each in agreement]}
    useless = not same and agreement[:-1].max(initial=0) <= share
    if held_out and useless:
        log.warning(
            f"DO NOT TRUST THESE EXITS: none agrees with full depth more often than always "
            f"answering {frequent!r} would, in {share:.1%} of the rows; exit code 3. Pass "
            "more texts, or more --distil-epochs"
        )
        return found | {"exit_code": 3}
    return found
