"""The calibration job: a checkpoint and a corpus in, an operating point in the checkpoint out."""

import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fastbert.calibration.evaluation import LayerOutputs, layer_outputs
from fastbert.calibration.promises import Choice, Shape, keep_promise, reach_speedup, rows_needed
from fastbert.checkpoint import fetch_checkpoint, load_tokenizer, store_operating_point
from fastbert.errors import InputError
from fastbert.exits.criteria import CRITERION_NAMES
from fastbert.exits.operating_point import Evidence, OperatingPoint, Promise
from fastbert.filesystem import shown
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.flops import CostModel
from fastbert.inference.precision import device, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.weights import load_model
from pipelines.input.examples import Columns, read_examples
from pipelines.labelling.progress import counting
from pipelines.settings import CalibrateSettings

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


def calibrate(settings: CalibrateSettings) -> dict[str, Any]:
    """Choose thresholds, store them as the checkpoint's default point. Returns the summary.

    Raises InputError where the rows are too few to prove the promise, and where nothing faster
    than full depth keeps it; the checkpoint is left alone then.
    """
    folder = fetch_checkpoint(settings.model)
    columns = Columns(
        settings.text_column,
        settings.pair_column,
        settings.label_column if settings.max_accuracy_loss is not None else None,
    )
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    examples, _ = read_examples(
        list(settings.corpus), columns, model.config.label_names, settings.rows, settings.seed
    )
    tokens = Tokenizer(tokenizer)(examples.texts, examples.pairs, model.config.max_length)
    precision = resolve(settings.precision, device())
    log.info("all layers of %d rows, %d tokens", len(tokens), int(tokens.lengths.sum()))
    with counting(len(tokens)) as counter:
        engine = Engine(model, device(), DTYPES[precision])
        outputs = layer_outputs(engine, tokens, counter.advance)
    truth = None if examples.labels is None else np.asarray(examples.labels)
    point = proven_point(settings, outputs, truth, CostModel.of(model.config), precision)
    store_point(point, settings.model)
    return {"model": shown(settings.model), "operating_point": asdict(point)}


def proven_point(
    settings: CalibrateSettings,
    outputs: LayerOutputs,
    truth: Array | None,
    cost: CostModel,
    precision: str,
) -> OperatingPoint:
    """The fastest point that does what is asked, with its evidence; InputError if there is none."""
    promise = promised(settings)
    chosen = choose(settings, outputs, harmed(outputs, truth), cost, promise)
    return OperatingPoint(
        settings.name or default_name(settings),
        chosen.thresholds,
        chosen.criterion,
        promise,
        Evidence(
            rows=chosen.rows,
            broken=chosen.broken,
            bound=chosen.bound,
            exits=chosen.exits,
            flops_speedup=chosen.flops_speedup,
            corpus=", ".join(shown(url) for url in settings.corpus),
            precision=precision,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def store_point(point: OperatingPoint, url: str) -> None:
    """Make it the default point of the checkpoint at `url`, and say so."""
    store_operating_point(url, point.name, point.settings())
    log.info(describe(point))


def promised(settings: CalibrateSettings) -> Promise | None:
    """What the settings ask to be kept; None for a speed-up."""
    about: dict[str, Any] = {"confidence": settings.confidence, "rows": settings.promise_rows}
    if settings.max_disagreement is not None:
        return Promise(settings.max_disagreement, harm="disagreement", **about)
    if settings.max_accuracy_loss is not None:
        return Promise(settings.max_accuracy_loss, harm="accuracy-loss", **about)
    return None


def harmed(outputs: LayerOutputs, truth: Array | None) -> Array:
    """Where a row's answer would do harm, bool (L, n): it is not full depth's, or, if the `truth`
    (n,) is known, it is wrong and full depth's is right."""
    if truth is None:
        truth = outputs.labels[-1]
    fails: Array = (outputs.labels != truth) & (outputs.labels[-1] == truth)
    return fails


def choose(
    settings: CalibrateSettings,
    outputs: LayerOutputs,
    fails: Array,
    cost: CostModel,
    promise: Promise | None,
) -> Choice:
    """The fastest thresholds that do what is asked; InputError if there are none."""
    rows = len(outputs.lengths)
    criteria = CRITERION_NAMES if settings.criterion == "auto" else (settings.criterion,)
    if promise is None:
        assert settings.speedup is not None
        found = reach_speedup(
            outputs, fails, cost, settings.speedup, settings.confidence, criteria[0]
        )
        if found is None:
            raise InputError(
                f"--speedup is {settings.speedup:g}, more than leaving at the first layer brings; "
                f"expected less than the number of layers, {len(fails)}"
            )
        return found
    shapes: tuple[Shape, ...] = ("uniform", "per-layer")
    if settings.shape != "auto":
        shapes = (settings.shape,)
    found = keep_promise(outputs, fails, cost, promise, criteria, shapes, settings.seed)
    if found is None:
        raise InputError(
            f"{rows} rows with a text are too few to prove a {promise.harm} of at most "
            f"{promise.share:g} with confidence {promise.confidence:g}: that takes at least "
            f"{rows_needed(promise)} of which none fails, and many times that to get fast; raise "
            "--rows, pass a larger --corpus, or ask for less"
        )
    if found.flops_speedup <= 1:
        raise InputError(
            f"nothing faster than full depth is proven to keep a {promise.harm} of at most "
            f"{promise.share:g} on {found.rows} rows; allow more, or pass more rows with --rows"
        )
    return found


def default_name(settings: CalibrateSettings) -> str:
    """What was asked for, in short."""
    for name in ("max_disagreement", "max_accuracy_loss", "speedup"):
        value = getattr(settings, name)
        if value is not None:
            return f"{name.replace('_', '-')}-{value:g}"
    raise AssertionError("the settings ask for something")


def describe(point: OperatingPoint) -> str:
    """One line for the log."""
    evidence = point.evidence
    assert evidence is not None
    harm = "get another label than at full depth"
    if point.promise and point.promise.harm == "accuracy-loss":
        harm = "lose the right label"
    text = (
        f"'{point.name}': {evidence.flops_speedup:.2f}x in FLOPs; {evidence.broken} of "
        f"{evidence.rows} rows {harm}, with this or a slower setting, so that at most "
        f"{evidence.bound:.3%} of all do"
    )
    return text + (f" with confidence {point.promise.confidence:g}" if point.promise else "")
