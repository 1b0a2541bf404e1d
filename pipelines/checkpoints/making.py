"""Exits that an output makes for a classifier without exits.

A sample of the input is drawn. On most of it, exits learn the classifier's answers; on the rest,
the thresholds that keep the promise are proven. A small input is answered by the whole model.
"""

import hashlib
import json
import logging
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from fastbert.calibration.points import store_point
from fastbert.checkpoint import fetch_checkpoint, fingerprint
from fastbert.errors import NotProven
from fastbert.exits.operating_point import OperatingPoint
from fastbert.exits.question import question_name
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, device_name, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.model import FastBertForSequenceClassification
from fastbert.outline import read_outline
from fastbert.training.examples import Examples
from fastbert.training.recipes import distilling
from fastbert.training.trainer import duration
from fastbert.weights import save_checkpoint
from pipelines.checkpoints.calibrate import prove
from pipelines.checkpoints.distill import give_exits, untaught
from pipelines.checkpoints.own_exits import MODEL
from pipelines.checkpoints.settings import CalibrateSettings, DistilSettings, LabelAnySettings
from pipelines.input.columns import InputColumns
from pipelines.input.examples import sample_texts
from pipelines.input.scans import Scans
from pipelines.output.storage import Storage

log = logging.getLogger(__name__)

#: Below the output, once exits have learnt: a digest of teachers and texts.
TAUGHT = "ledger/model_taught"
#: Most rows to learn from, and to prove on; of fewer rows, the shares.
_LEARN, _PROVE = 20_000, 5_000
_SHARES = 0.4, 0.2
#: Rows to measure the length of texts, if no exits are made.
_LOOK = 1_000
#: Tokens of a text to read at least, if the classifier reads as many: the limit of most.
_SHORTEST = 512
#: Rows to time the whole model.
_PROBE = 128
#: Exits are made if that costs at most this share of labelling all rows at full depth.
_WORTH = 0.5


def make(settings: LabelAnySettings) -> dict[str, Any]:
    """Make the model, in a separate process. Exits taught by a killed run are reused, if the sample
    is the same. Returns what this takes and saves; a dry run does nothing else."""
    classifiers = list(map(fetch_checkpoint, settings.model))
    columns = InputColumns(settings.text_column, settings.pair_column)
    classes = max(map(_classes, classifiers))
    storage, target = Storage(settings.output), f"{settings.output}/{MODEL}"
    texts, total = sample_texts(
        list(settings.input),
        columns,
        lambda rows: _plan(settings, rows, classes).sample,
        Scans(storage, keep=not settings.dry_run),  # reused by the labelling job
    )
    plan = _plan(settings, total, classes)
    with tempfile.TemporaryDirectory() as folder:
        learn, prove = f"{folder}/learn.parquet", f"{folder}/prove.parquet"
        middle = len(texts) - min(plan.prove, len(texts) // 2)
        digest = "".join(map(fingerprint, classifiers))
        digest += _write(texts.take(range(middle)), learn, columns)
        _write(texts.take(range(middle, len(texts))), prove, columns)
        asked = DistilSettings(
            teacher=tuple(map(str, classifiers)),
            question=_names(settings),
            corpus=(learn,),
            output=target,
            text_column=settings.text_column,
            pair_column=settings.pair_column,
        )
        log.info("loading the classifier, and timing it on %d texts", min(len(texts), _PROBE))
        some = texts.take(range(min(len(texts), _LOOK)))
        model, tokenizer = untaught(asked, some, _SHORTEST)
        each = _seconds_per_row(model, tokenizer, texts)
        log.info(_message(plan, total, each))
        estimate = {
            "rows": total,
            "seconds_at_full_depth": round(total * each),
            "makes_exits": plan.makes,
            "seconds_to_make_exits": round(plan.cost * each) if plan.makes else 0,
        }
        if settings.dry_run:
            return estimate
        if plan.makes:
            taught = storage.read([TAUGHT]).get(TAUGHT) == digest.encode()
            if taught and storage.paths(MODEL, "config.json"):
                log.info("reusing %s, which has learnt from this sample", target)
            else:
                give_exits(replace(asked, max_length=model.config.max_length))
                storage.put(TAUGHT, digest.encode())
            _prove(settings, target, prove)
        else:
            save_checkpoint(model, tokenizer, target)
            _answer_at_full_depth(target)
    return estimate


def _prove(settings: LabelAnySettings, target: str, corpus: str) -> None:
    """Store the fastest point that is proven to keep the promise on these texts, or full depth."""
    try:
        prove(
            CalibrateSettings(
                model=target,
                corpus=(corpus,),
                text_column=settings.text_column,
                pair_column=settings.pair_column,
                precision=settings.precision,
                max_disagreement=settings.max_disagreement,
                tolerance=settings.tolerance,
                cutoff=settings.cutoff,
            )
        )
    except NotProven as error:
        log.warning("the whole model answers all rows, because %s", error)
        _answer_at_full_depth(target)


def _answer_at_full_depth(target: str) -> None:
    config = read_outline(fetch_checkpoint(target))
    store_point(replace(OperatingPoint.of_speed(0.0, config), name="full-depth"), target)


@dataclass(frozen=True)
class Plan:
    """What to make for an input of a number of rows."""

    makes: bool
    learn: int
    prove: int
    #: Cost of making the exits, in rows at full depth.
    cost: int
    #: Why exits are made or not.
    why: str

    @property
    def sample(self) -> int:
        """Rows to draw."""
        return self.learn + self.prove if self.makes else _LOOK


def _plan(settings: LabelAnySettings, rows: int, classes: int) -> Plan:
    """Whether exits pay: learning reads an almost constant number of rows, forwards and, through
    the branches alone, backwards."""
    learn, prove = (
        min(most, int(share * rows)) for most, share in zip((_LEARN, _PROVE), _SHARES, strict=True)
    )
    cost = int(2 * distilling(learn, classes).epochs * learn) + 2 * learn + prove
    worth = 0 < cost <= _WORTH * rows
    makes = settings.make_exits == "always" or (settings.make_exits == "auto" and worth)
    if settings.make_exits != "auto":
        why = f"--make-exits is {settings.make_exits}"
    else:
        why = "that pays" if makes else "too few rows for that (--make-exits always makes them)"
    return Plan(makes, learn, prove, cost, why)


def _seconds_per_row(
    model: FastBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: Examples
) -> float:
    """Seconds of the whole model for a row, on this machine."""
    few = texts.take(range(min(len(texts), _PROBE)))
    read = Tokenizer(tokenizer, model.config.windowing)
    tokens = read(few.texts, few.pairs, model.config.max_length)
    engine = Engine(model, device(), DTYPES[resolve("auto", device())])
    engine.full_depth(tokens.take(np.arange(min(len(few), 8))))  # warms up
    started = time.monotonic()
    engine.full_depth(tokens)
    return (time.monotonic() - started) / len(few)


def _message(plan: Plan, rows: int, each: float) -> str:
    """A message: cost and benefit of making exits, and the decision."""
    return (
        f"the model has no exits: it takes about {duration(rows * each)} for {rows:,} rows on this "
        f"{device_name(device())}; making exits takes about {duration(plan.cost * each)} and saves "
        f"half to nine tenths of the labelling; {plan.why}: "
        + (
            f"{plan.learn:,} rows to teach them, {plan.prove:,} others to prove their thresholds"
            if plan.makes
            else "the whole model answers all rows"
        )
    )


def _names(settings: LabelAnySettings) -> tuple[str, ...]:
    """Names of several classifiers' questions; none for a single classifier."""
    return tuple(map(question_name, settings.model)) if len(settings.model) > 1 else ()


def _classes(classifier: Path) -> int:
    """Number of classes in its configuration."""
    try:
        found = json.loads((classifier / "config.json").read_text())
        return max(2, len(found.get("id2label") or {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return 2  # `load_classifier` reports the error


def _write(texts: Examples, path: str, columns: InputColumns) -> str:
    """Write texts for other jobs to read. Returns a digest of them."""
    sides = [texts.texts, texts.pairs] if texts.pairs else [texts.texts]
    table = pa.table(
        {name: pa.array(side, pa.string()) for name, side in zip(columns.texts, sides, strict=True)}
    )
    pq.write_table(table, path)
    digest = hashlib.sha256(repr(sides).encode(errors="surrogatepass"))
    return digest.hexdigest()
