"""The evaluation job: a checkpoint and Parquet in, one line per speed out."""

import logging
import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from fastbert.calibration.evaluation import (
    Outcome,
    outcome,
    question_outputs,
    realised_speedups,
)
from fastbert.checkpoint import fetch_checkpoint
from fastbert.configuration import FastBertConfig
from fastbert.errors import InputError
from fastbert.exits.operating_point import OperatingPoint
from fastbert.filesystem import redacted
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.precision import device, device_name, resolve
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import sample
from fastbert.weights import load_checkpoint
from pipelines.checkpoints.settings import EvaluateSettings
from pipelines.input.columns import InputColumns
from pipelines.input.examples import columns_of_truth, known_of, read_labelled
from pipelines.input.texts import tell_truncated
from pipelines.labelling.progress import counting

log = logging.getLogger(__name__)

#: Most rows that are timed, spread evenly over the data: full depth runs on them several times.
_TIMED_ROWS = 1000


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Evaluate and print a table; returns the summary. Always includes speed 0, full depth, and the
    checkpoint's operating points."""
    folder = fetch_checkpoint(settings.model)
    model, tokenizer = load_checkpoint(folder, bool(settings.pair_column))
    config, questions = model.config, model.questions
    columns = InputColumns(
        settings.text_column,
        settings.pair_column,
        labels=columns_of_truth(settings.label_column, questions) if settings.labels else (),
    )
    known = known_of(questions) if settings.labels else []
    examples, _ = read_labelled(list(settings.data), columns, known)
    targets = None if examples.labels is None else np.asarray(examples.labels)
    stored = stored_points(config)
    default = next((p for p in stored if p.name == config.default_operating_point), None)
    precision = resolve(settings.precision, device(), default.proven_in if default else None)
    ranges = default.ranges if default else None
    engine = Engine(model, device(), DTYPES[precision], ranges=ranges)
    others = [p.name for p in stored if p.ranges != ranges] if precision == "int8" else []
    if others:
        log.warning(
            "int8 uses the input ranges of '%s'; %s would be used with others",
            *(default.name if default else "no point", ", ".join(others)),
        )
    tokenize = Tokenizer(tokenizer, config.windowing)
    tokens = tokenize(examples.texts, examples.pairs, config.max_length)
    tell_truncated(tokens.cut, len(tokens), config.max_length, config.windowing)
    speeds = [0.0, *sorted(set(_speeds(settings, config)) - {0.0})]
    points = [OperatingPoint.of_speed(speed, config, settings.exits) for speed in speeds]
    points += stored
    log.info("%d rows, %d tokens", len(tokens), int(tokens.lengths.sum()))
    with counting(len(tokens)) as counter:
        outputs = question_outputs(engine, tokens, counter.advance)
    cost = CostModel(model)
    realised: list[float | None] = [None] * len(points)
    if settings.timing:
        timed, repeats = sample(tokens, _TIMED_ROWS), 3
        log.info("timing %d of the rows", len(timed))
        with counting(len(timed) * (1 + repeats) * (1 + len(points))) as counter:
            realised = [*realised_speedups(engine, timed, points, repeats, counter.advance)]
    summary = {
        "model": redacted(settings.model),
        "rows": len(tokens),
        "timed_rows": min(len(tokens), _TIMED_ROWS) if settings.timing else 0,
        "truncated_rows": tokens.cut,
        "tokens": int(tokens.lengths.sum()),
        "device": device_name(device()),
        "precision": precision,
        "exit_depths": [each.depth for each in model.exits],
        "full_depth_flops": int(cost.full_flops(tokens.costly).sum()),
    }
    by_question = {}
    for place, asked in enumerate(questions):
        truth = None if targets is None else questions.targets(asked, targets)
        rules = [point.each()[place].rule() for point in points]
        outcomes = [outcome(outputs[place], cost, rule, truth) for rule in rules]
        if not settings.json:
            print_outcomes(asked.name, points, outcomes, realised)
        found = [
            out.summary() | {"realised_speedup": clock}
            for out, clock in zip(outcomes, realised, strict=True)
        ]
        by_question[asked.name] = {
            "speeds": [{"speed": s} | each for s, each in zip(speeds, found, strict=False)],
            "operating_points": {
                point.name: each
                for point, each in zip(points[len(speeds) :], found[len(speeds) :], strict=True)
            },
        }
    return summary | (by_question.get("") or {"questions": by_question})


def _speeds(settings: EvaluateSettings, config: FastBertConfig) -> tuple[float, ...]:
    """The speeds given; by default none for a score, which has no entropy."""
    score = any(each.kind == "score" for each in config.question_list)
    return () if score and settings.speeds == EvaluateSettings.speeds else settings.speeds


def stored_points(config: FastBertConfig) -> list[OperatingPoint]:
    """The checkpoint's points; unusable ones are left out and logged."""
    points = []
    for name in config.operating_points or {}:
        try:
            points.append(OperatingPoint.of_checkpoint(config, name))
        except InputError as error:
            log.warning("left out: %s", error)
    return points


def print_outcomes(
    question: str,
    points: list[OperatingPoint],
    outcomes: list[Outcome],
    realised: list[float | None],
) -> None:
    """Print one line per point, on stderr, for one question."""
    measure = next((name for each in outcomes for name in each.quality), "accuracy")
    shown = measure.replace("_", " ")
    names = ("point", shown, "agrees", "layers", "FLOPs speed-up", "on the clock", "exits")
    columns = (Column(name, justify="right") for name in names)
    title = "speed-ups over full depth without branches"
    if question:
        title = f"question '{question}'; exits and FLOPs as if it were the only one; {title}"
    table = Table(*columns, title=title)
    for point, found, clock in zip(points, outcomes, realised, strict=True):
        table.add_row(
            point.name,
            f"{found.quality[measure]:.4f}" if found.quality else "",
            f"{found.agreement:.4f}",
            f"{found.mean_layers:.2f}",
            f"{found.flops_speedup:.2f}x",
            "" if clock is None else f"{clock:.2f}x",
            " ".join(map(str, found.exits)),
        )
    Console(file=sys.stderr, width=110).print(table)
