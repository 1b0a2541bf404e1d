"""Second stage, on the model's device: labels, exit layers and costs of a slice."""

import hashlib
import os
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fastbert.checkpoint import fetch_checkpoint
from fastbert.errors import InputError
from fastbert.inference.engine import DTYPES, Engine, Predictions
from fastbert.inference.flops import CostModel
from fastbert.inference.precision import device_name, supports
from fastbert.inference.tokens import Tokens
from fastbert.weights import load_model
from pipelines.labelling.isolate import Rows, isolate
from pipelines.labelling.run import Run
from pipelines.labelling.work import ERROR, IDS, TYPES, Work
from pipelines.output.schema import OUTPUT
from pipelines.output.statistics import UNCERTAINTY_BINS, SliceStats

Array = np.ndarray[Any, Any]
_PRIVATE = (IDS, TYPES, ERROR)
#: Kinds of errors that a slice's record counts; they may name what is a row's own.
_MOST_REASONS = 20
#: Labels that it counts per exit: all, but where classes are so many that records would grow.
_MOST_LABELS = 256


class Classify:
    """A replica of the model: adds the output's columns to a slice."""

    def __init__(self, run: Run, threads: int = 1, cuda: bool = False) -> None:
        """`threads` are CPU threads of the model; `cuda` says whether the replica was given a GPU.

        Raises InputError if it does not find that, or cannot do the run's precision.
        """
        torch.set_num_threads(threads)
        model = load_model(fetch_checkpoint(run.model, run.identity.checkpoint))
        if cuda and not torch.cuda.is_available():
            raise InputError(
                f"this replica was given a GPU, but torch {torch.__version__} sees none; install "
                "a CUDA build of torch on the workers, or pass --gpus-per-replica 0"
            )
        device = "cuda" if cuda else "cpu"
        emulated = run.emulated and run.precision == "bf16"
        if not supports(run.precision, device) and not emulated:
            raise InputError(
                f"this run labels in {run.precision}, which {device_name(device)} on "
                f"{os.uname().nodename} does not multiply; leave such machines out, or pass "
                "--precision bf16, which is then emulated, or --precision fp32 with --relabel"
            )
        self.engine = Engine(model, device, DTYPES[run.precision])
        self.cost = CostModel.of(model.config)
        self.names = pa.array(model.config.label_names)
        self.run = run
        self.device = device_name(device)

    def __call__(self, work: Work) -> Work:
        """Label every row that has tokens; the others keep their error."""
        if work.table is None:
            return work
        started = time.monotonic()
        table = work.table.combine_chunks()
        errors = table[ERROR].to_pylist()
        good = np.array([error is None for error in errors], bool)
        tokens = tokens_of(table, good)
        where, rate = work.slice, self.run.audit_rate
        audited = audit_rows(where.shard.name, where.first_row, where.rows, rate)[good]
        found, failed = self._classify(tokens, audited)
        answered = np.isfinite(found.score)
        places = np.flatnonzero(good)
        for row in np.flatnonzero(~answered).tolist():
            why = failed.get(row)
            errors[places[row]] = (
                f"the model failed: {why}" if why else "the model's answer is not a number"
            )
        good[good] = answered  # from here on: the rows that have a label
        found = Predictions(**{name: values[answered] for name, values in vars(found).items()})
        lengths, audited = tokens.lengths[answered], audited[answered]
        kept = [name for name in table.column_names if name not in _PRIVATE]
        result = table.select(kept)
        columns = self.answer(found, lengths, good) | {"error": pa.array(errors, pa.string())}
        for field in OUTPUT:
            result = result.append_column(field, columns[field.name])
        stats = replace(
            statistics_of(work.stats, found, audited, lengths, self.cost, self.names.to_pylist()),
            exit_depths=self.run.identity.exit_depths,
            error_rows=int((~good).sum()),
            errors=dict(Counter(error for error in errors if error).most_common(_MOST_REASONS)),
            device=self.device,
            precision=self.run.precision,
            device_seconds=time.monotonic() - started,
        )
        return replace(work, table=result, stats=stats)

    def answer(self, found: Predictions, lengths: Array, good: Array) -> dict[str, pa.Array]:
        """The output's columns but the error, for all rows of the slice; those that are `good`,
        bool (N,), have an answer."""
        depths = np.asarray(self.run.identity.exit_depths, np.int8)
        return {
            "label": _spread(good, found.label, self.names),
            "score": _spread(good, found.score),
            "exit_layer": _spread(good, depths[found.exit_layer - 1]),
            "uncertainty": _spread(good, found.uncertainty),
            "tokens": _spread(good, lengths.astype(np.int32)),
            "flops": _spread(good, self.cost.row_flops(lengths, found.exit_layer)),
            "audit_label": _spread(good, found.deep_label, self.names),
        }

    def give_up(self, work: Work, reason: str) -> Work:
        """Every row gets `reason` as its error; the model is not used."""
        if work.table is None:
            return work
        errors = [error or reason for error in work.table[ERROR].to_pylist()]
        none = pa.array([[]] * len(errors), pa.large_list(pa.int32()))
        table = work.table.drop_columns(
            [name for name in _PRIVATE if name in work.table.schema.names]
        )
        table = table.append_column(IDS, none).append_column(ERROR, pa.array(errors, pa.string()))
        stats = replace(work.stats, quarantined=True)
        return self(replace(work, table=table, stats=stats))

    def _classify(self, tokens: Tokens, audited: Array) -> tuple[Predictions, dict[int, str]]:
        """Answers for all rows, and why there are none for some: their scores are not numbers."""

        def run(rows: Rows) -> Predictions:
            try:
                whole = len(rows) == len(tokens)
                some = tokens if whole else tokens.take(rows)
                rule = self.run.identity
                return self.engine.classify(
                    some, np.asarray(rule.thresholds), audited[rows], rule.criterion
                )
            except RuntimeError:
                self._check_device()
                raise

        parts, failed = isolate(run, np.arange(len(tokens)))
        if not failed:
            return parts[0][1], {}
        answers = {
            name: np.zeros(len(tokens), kind)
            for name, kind in (
                ("label", np.int32),
                ("exit_layer", np.int8),
                ("uncertainty", np.float32),
            )
        }
        answers["score"] = np.full(len(tokens), np.nan, np.float32)
        answers["deep_label"] = np.full(len(tokens), -1, np.int32)
        for rows, part in parts:
            for name, values in vars(part).items():
                answers[name][rows] = values
        return Predictions(**answers), failed

    def _check_device(self) -> None:
        """End the process if the GPU answers no more: after some faults nothing in it ever works
        again. A new process gets the slice, a few times."""
        if self.engine.device.type == "cuda":
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:
                print(f"the GPU failed: {error}", file=sys.stderr, flush=True)
                os._exit(1)


def statistics_of(
    stats: SliceStats,
    found: Predictions,
    audited: Array,
    lengths: Array,
    cost: CostModel,
    names: list[str],
) -> SliceStats:
    """`stats` with what the answers of n rows add to it. `audited`: bool (n,); `lengths`: tokens,
    int64 (n,); `names`: of the classes."""
    left = [found.exit_layer == k for k in range(1, cost.layers + 1)]
    flops = cost.row_flops(lengths, found.exit_layer)
    deepest = cost.row_flops(lengths, np.full_like(found.exit_layer, cost.layers))
    agreed = audited & (found.deep_label == found.label)

    def by_exit(values: Array) -> list[int]:
        return [int(values[at].sum()) for at in left]

    return replace(
        stats,
        tokens=int(lengths.sum()),
        exits=[int(at.sum()) for at in left],
        exit_tokens=by_exit(lengths),
        exit_flops=by_exit(flops),
        exit_labels=[_by_label(found.label[at], names) for at in left],
        exit_uncertainties=[
            np.histogram(found.uncertainty[at], UNCERTAINTY_BINS, (0, 1))[0].tolist() for at in left
        ],
        exit_audit_rows=by_exit(audited),
        exit_audit_agreements=by_exit(agreed),
        full_flops=int(cost.full_flops(lengths).sum()),
        audit_rows=int(audited.sum()),
        audit_agreements=int(agreed.sum()),
        audit_flops=int((deepest - flops)[audited].sum()),
    )


def _by_label(labels: Array, names: list[str]) -> dict[str, int]:
    """Rows of the labels that occur, the most frequent first."""
    counts: Counter[str] = Counter()
    for i, n in enumerate(np.bincount(labels).tolist()):
        if n:
            counts[names[i]] += n  # names may repeat
    return dict(counts.most_common(_MOST_LABELS))


def audit_rows(shard: str, first_row: int, rows: int, rate: float) -> Array:
    """Which rows are audited, bool (rows,): a fixed pseudo-random share of the shard's rows.

    It depends on shard and row number only, so that a retry audits the same rows, and slices of
    another size do.
    """
    key = int.from_bytes(hashlib.sha256(shard.encode()).digest()[:16], "little")
    generator = np.random.Philox(key=key)
    block, begin = divmod(first_row, 4)  # it counts in blocks of four numbers
    generator.advance(block)
    drawn = np.random.Generator(generator).random(begin + rows)[begin:]
    chosen: Array = drawn < rate
    return chosen


def tokens_of(table: pa.Table, good: Array) -> Tokens:
    """The token columns as Tokens; rows with an error hold no tokens, so leaving them out moves
    no id."""
    ids = table[IDS].chunk(0) if table.num_rows else pa.array([], pa.large_list(pa.int32()))
    ends = np.asarray(ids.offsets)[1:][good]
    types = None
    if TYPES in table.column_names:
        types = np.asarray(table[TYPES].combine_chunks().flatten())
    return Tokens(np.asarray(ids.flatten()), np.concatenate([[0], ends]).astype(np.int64), types)


def _spread(good: Array, values: Array, names: pa.Array | None = None) -> pa.Array:
    """Values of the good rows as a column of all rows, null elsewhere.

    With `names` the values are indices into it, and negative ones are null too.
    """
    full = np.zeros(len(good), values.dtype)
    full[good] = values
    null = ~good
    if names is not None:
        null = null | (full < 0)
        return names.take(pa.array(full, mask=null))
    return pa.array(full, mask=null)
