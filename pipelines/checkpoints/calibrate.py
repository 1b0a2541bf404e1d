"""The calibration job: a checkpoint and a corpus in, an operating point in the checkpoint out."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fastbert.calibration.choosing import heads_on_clock
from fastbert.calibration.evaluation import question_outputs
from fastbert.calibration.points import (
    faster_point,
    promised_point,
    sample_of,
    store_point,
    tell_points,
    together,
)
from fastbert.calibration.promises import Sample
from fastbert.calibration.ranges import measure_ranges, measuring
from fastbert.checkpoint import fetch_checkpoint
from fastbert.errors import InputError
from fastbert.exits.exit import chosen
from fastbert.exits.operating_point import Harm, OperatingPoint, Promise
from fastbert.exits.rules import CRITERIA_OF
from fastbert.filesystem import redacted
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.tasks.questions import Asked, Questions
from fastbert.weights import load_checkpoint
from fastbert.writable import check_folder
from pipelines.checkpoints.settings import CalibrateSettings
from pipelines.input.columns import InputColumns
from pipelines.input.examples import columns_of_truth, known_of, read_labelled
from pipelines.input.texts import tell_truncated
from pipelines.labelling.progress import counting

log = logging.getLogger(__name__)


def calibrate(settings: CalibrateSettings) -> dict[str, Any]:
    """Choose thresholds, and store them in the checkpoint. Returns the summary; raises as `prove`
    does."""
    summary = prove(settings)
    name = summary["operating_point"]["name"]
    option = "" if settings.default else f" --operating-point {name}"
    shown = summary["model"]
    log.info("next: fastbert label --model %s%s, and --audit-rate", shown, option)
    return summary


def prove(settings: CalibrateSettings) -> dict[str, Any]:
    """`calibrate`, without the hint of the next step.

    Raises InputError if there are too few rows to prove the promise, or if nothing faster than full
    depth keeps it; the checkpoint then stays unchanged.
    """
    folder = fetch_checkpoint(settings.model)
    check_folder(settings.model)
    model, tokenizer = load_checkpoint(folder, bool(settings.pair_column))
    questions = model.questions
    _check_names(settings, questions)
    compared = {asked.name: _criterion(settings, asked) for asked in questions}
    labelled = settings.max_accuracy_loss is not None
    columns = InputColumns(
        settings.text_column,
        settings.pair_column,
        labels=columns_of_truth(settings.label_column, questions) if labelled else (),
    )
    known = known_of(questions) if labelled else []
    examples, _ = read_labelled(list(settings.corpus), columns, known, settings.rows, settings.seed)
    tokenize = Tokenizer(tokenizer, model.config.windowing)
    tokens = tokenize(examples.texts, examples.pairs, model.config.max_length)
    tell_truncated(tokens.cut, len(tokens), model.config.max_length, model.config.windowing)
    precision = resolve(settings.precision, device())
    targets, ranges = None if examples.labels is None else np.asarray(examples.labels), None
    if precision == "int8":
        few = measuring(len(tokens), settings.seed)
        log.info("measuring input ranges on %d rows, not used for the proof", few.sum())
        ranges = measure_ranges(model, tokens.take(np.flatnonzero(few)))
        tokens = tokens.take(np.flatnonzero(~few))
        targets = None if targets is None else targets[~few]
    log.info("all layers of %d rows, %d tokens", len(tokens), int(tokens.lengths.sum()))
    against = settings.against if settings.against not in ("own", precision) else None
    with counting(len(tokens) * (2 if against else 1)) as counter:
        engine = Engine(model, device(), DTYPES[precision], ranges=ranges)
        found = question_outputs(engine, tokens, counter.advance)
        exact = None
        if against:
            last = [len(model.exits) - 1]
            full = Engine(model, device(), DTYPES[against])
            exact = question_outputs(full, tokens, counter.advance, last)
    cost = CostModel(model)
    # Exits given by the user are kept, and on CPUs all exits pay.
    choosing = len(model.exits) > 1 and settings.exits is None and settings.speedup is None
    on_gpu = engine.device.type == "cuda"
    heads = heads_on_clock(engine, cost, tokens) if choosing and on_gpu else None
    points, samples, wrong = {}, [], []
    for place, (asked, outputs) in enumerate(zip(questions, found, strict=True)):
        criterion, within = compared[asked.name]
        truth = None if targets is None else questions.targets(asked, targets)
        reference = exact[place].answers[0] if exact else None
        sample = sample_of(
            outputs,
            truth,
            cost,
            settings.corpus,
            precision,
            within=within,
            heads=heads,
            reference=reference,
        )
        try:
            points[asked.name] = _point(sample, criterion, settings, against)
        except InputError as error:
            raise type(error)(_of(asked.name, str(error))) from error
        samples.append(sample)
        right = None if truth is None else outputs.task.truth(truth)
        wrong.append(None if right is None else float(outputs.differs(right)[-1].mean()))
    name = settings.name or _name(points, settings)
    point = replace(together(points, name), ranges=ranges)
    point, before = store_point(point, settings.model, settings.default)
    tell_points(point, samples, wrong)
    return {
        "model": redacted(settings.model),
        "operating_point": asdict(replace(point, ranges=None)),
        "default_operating_point": point.name if settings.default else before,
        "default_before": before,
    }


def _name(points: Mapping[str, OperatingPoint], settings: CalibrateSettings) -> str:
    """The default name of the point, made from its goal."""
    if len(points) == 1:
        return next(iter(points.values())).name
    if settings.speedup is not None:
        return f"speedup-{settings.speedup:g}"
    harm, share = _harm(settings)
    return f"max-{harm}-{share:g}"


def _of(question: str, said: str) -> str:
    """A message about a question, with its name if there are several."""
    return f"question '{question}': {said}" if question else said


def _criterion(settings: CalibrateSettings, asked: Asked) -> tuple[str, tuple[float, ...]]:
    """The criterion for a question, and its numbers. Raises InputError for options that do not fit
    its kind."""
    kind, only = asked.task.question.kind, not asked.name
    gives = f"the checkpoint gives {kind.replace('-', ' ')}"
    tolerance, cutoffs = (
        _numbers(option, values, asked.name)
        for option, values in (("--tolerance", settings.tolerance), ("--cutoff", settings.cutoff))
    )
    if kind != "score":
        if tolerance or cutoffs:
            option = "--cutoff" if cutoffs else "--tolerance"
            raise InputError(_of(asked.name, f"{option} needs a score, but {gives}"))
        known = CRITERIA_OF[kind]
        if settings.criterion not in ("auto", *known):
            raise InputError(
                f"--criterion is '{settings.criterion}', expected one of {', '.join(known)} for "
                f"{kind.replace('-', ' ')}"
            )
        return settings.criterion, ()
    if settings.max_accuracy_loss is not None:
        raise InputError(
            "--max-accuracy-loss needs labels, which are right or wrong, but the checkpoint gives "
            "a score; pass --max-disagreement with --tolerance or --cutoff"
        )
    if only and settings.criterion != CalibrateSettings.criterion:
        raise InputError(
            f"--criterion is '{settings.criterion}', which needs labels, but the checkpoint gives "
            "a score; leave it out: --tolerance or --cutoff decide which scores are equal"
        )
    if bool(tolerance) == bool(cutoffs) or len(tolerance) > 1:
        begins = "" if only else f"{asked.name}="
        raise InputError(
            _of(asked.name, f"--tolerance is {tolerance or 'missing'}, --cutoff {cutoffs or 'too'}")
            + f"; scores rarely agree to the last digit: pass one of --tolerance {begins}D, the "
            f"largest difference, and --cutoff {begins}C, for each number that rows are filtered by"
        )
    return ("cutoff", tuple(sorted({*cutoffs}))) if cutoffs else ("tolerance", tuple(tolerance))


def _check_names(settings: CalibrateSettings, questions: Questions) -> None:
    """Raises InputError for a tolerance or a cut-off without a question."""
    names = [asked.name for asked in questions]
    for text in (*settings.tolerance, *settings.cutoff):
        if (name := text.rpartition("=")[0]) not in names:
            begins = "a number alone" if names == [""] else f"NAME=number, of {', '.join(names)}"
            raise InputError(
                f"--tolerance or --cutoff is '{text}', which names no "
                f"question{f', {name!r} is none' if name else ''}; expected {begins}"
            )


def _numbers(option: str, values: Sequence[str], question: str) -> list[float]:
    """The values for a question, after its name and an equals sign, or, for the only question,
    without a name."""
    found = []
    for text in values:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (option == "--tolerance" and value <= 0):
            least = "more than 0" if option == "--tolerance" else "finite"
            raise InputError(f"{option} is '{text}', expected a number, {least}, or NAME=number")
        if name == question:
            found.append(value)
    return found


def _harm(settings: CalibrateSettings) -> tuple[Harm, float]:
    """The harm that a promise bounds, and the bound."""
    harm: Harm = "disagreement" if settings.max_accuracy_loss is None else "accuracy-loss"
    share = settings.max_disagreement or settings.max_accuracy_loss
    assert share is not None
    return harm, share


def _point(
    sample: Sample, criterion: str, settings: CalibrateSettings, against: str | None
) -> OperatingPoint:
    """The point for the goal, as far as the sample proves it."""
    exits = np.array(chosen(settings.exits or "0-", sample.cost.exits))
    if settings.speedup is not None:
        return faster_point(sample, settings.speedup, settings.confidence, criterion, exits)
    harm, share = _harm(settings)
    promise = Promise(share, settings.confidence, settings.promise_rows, harm, against)
    return promised_point(sample, promise, criterion, exits, settings.seed)
