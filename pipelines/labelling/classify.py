"""Second stage, on the model's device: labels, exit layers and costs of a slice."""

import hashlib
import os
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fastbert.checkpoint import fetch_checkpoint
from fastbert.exits.operating_point import OperatingPoint
from fastbert.inference.cost import CostModel
from fastbert.inference.engine import DTYPES, Engine, Predictions
from fastbert.inference.tokens import Tokens
from fastbert.weights import load_model
from pipelines.labelling.isolate import Rows, isolate
from pipelines.labelling.work import ERROR, IDS, TYPES, Work
from pipelines.output.ledger import UNCERTAINTY_BINS
from pipelines.output.schema import OUTPUT
from pipelines.settings import Precision, resolve_precision

Array = np.ndarray[Any, Any]
_PRIVATE = (IDS, TYPES, ERROR)
#: Kinds of errors that a slice's record counts; they may name what is a row's own.
_MOST_REASONS = 20
#: Labels that it counts per layer: all, but where classes are so many that records would grow.
_MOST_LABELS = 256


class Label:
    """A replica of the model: adds the output's columns to a slice."""

    def __init__(
        self,
        checkpoint: str,
        point: OperatingPoint,
        audit_rate: float,
        precision: Precision,
        threads: int,
        cuda: bool = False,
        fingerprint: str | None = None,
    ) -> None:
        """`threads` are CPU threads of the model; `cuda` says whether the replica was given a GPU,
        which it then must find. With a `fingerprint`, the checkpoint at this URL must have it."""
        torch.set_num_threads(threads)
        model = load_model(fetch_checkpoint(checkpoint, fingerprint))
        if cuda and not torch.cuda.is_available():
            raise RuntimeError(
                f"this replica was given a GPU, but torch {torch.__version__} sees none; install "
                "a CUDA build of torch on the workers, or pass --gpus-per-replica 0"
            )
        device = "cuda" if cuda else "cpu"
        resolved = resolve_precision(precision, device)
        self.engine = Engine(model, device, DTYPES[resolved])
        self.cost = CostModel(model)
        self.names = pa.array(model.config.label_names)
        self.point, self.thresholds = point, np.asarray(point.thresholds)
        self.audit_rate = audit_rate
        self.facts = {
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "precision": resolved,
        }

    def __call__(self, work: Work) -> Work:
        """Label every row that has tokens; the others keep their error."""
        if work.table is None:
            return work
        started = time.monotonic()
        table = work.table.combine_chunks()
        errors = table[ERROR].to_pylist()
        good = np.array([error is None for error in errors], bool)
        tokens = tokens_of(table, good)
        where = work.slice
        audited = audit_rows(where.shard.name, where.first_row, where.rows, self.audit_rate)[good]
        found, failed = self._classify(tokens, audited)
        answered = np.isfinite(found.score)
        places = np.flatnonzero(good)
        for row in np.flatnonzero(~answered).tolist():
            why = failed.get(row)
            errors[places[row]] = (
                f"the model failed: {why}" if why else "the model's answer is not a number"
            )
        audited &= answered
        lengths, exits = tokens.lengths[answered], found.exit_layer[answered]
        flops = self.cost.row_flops(lengths, exits)
        deep_exits = np.full_like(exits, self.cost.layers)
        deep_flops = self.cost.row_flops(lengths, deep_exits) - flops
        good[good] = answered  # from here on: the rows that have a label
        columns = {
            "label": _spread(good, found.label[answered], self.names),
            "score": _spread(good, found.score[answered]),
            "exit_layer": _spread(good, exits),
            "uncertainty": _spread(good, found.uncertainty[answered]),
            "tokens": _spread(good, lengths.astype(np.int32)),
            "flops": _spread(good, flops),
            "audit_label": _spread(good, found.deep_label[answered], self.names),
            "error": pa.array(errors, pa.string()),
        }
        kept = [name for name in table.column_names if name not in _PRIVATE]
        result = table.select(kept)
        for field in OUTPUT:
            result = result.append_column(field, columns[field.name])
        left = [exits == k for k in range(1, self.cost.layers + 1)]
        labels, uncertainty = found.label[answered], found.uncertainty[answered]
        agreed = audited & (found.deep_label == found.label)
        return work.with_table(
            result,
            error_rows=int((~good).sum()),
            tokens=int(lengths.sum()),
            exits=[int(at.sum()) for at in left],
            exit_tokens=[int(lengths[at].sum()) for at in left],
            exit_flops=[int(flops[at].sum()) for at in left],
            exit_labels=[self._by_label(labels[at]) for at in left],
            exit_uncertainties=[
                np.histogram(uncertainty[at], UNCERTAINTY_BINS, (0, 1))[0].tolist() for at in left
            ],
            exit_audit_rows=[int(audited[answered][at].sum()) for at in left],
            exit_audit_agreements=[int(agreed[answered][at].sum()) for at in left],
            errors=dict(Counter(error for error in errors if error).most_common(_MOST_REASONS)),
            full_flops=int(self.cost.full_flops(lengths).sum()),
            audit_rows=int(audited.sum()),
            audit_agreements=int(agreed.sum()),
            audit_flops=int(deep_flops[audited[answered]].sum()),
            device_seconds=time.monotonic() - started,
            **self.facts,
        )

    def _by_label(self, labels: Array) -> dict[str, int]:
        """Rows of the labels that occur, the most frequent first."""
        counts: Counter[str] = Counter()
        for i, n in enumerate(np.bincount(labels).tolist()):
            if n:
                counts[self.names[i].as_py()] += n  # names may repeat
        return dict(counts.most_common(_MOST_LABELS))

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
        return self(work.with_table(table, quarantined=True))

    def _classify(self, tokens: Tokens, audited: Array) -> tuple[Predictions, dict[int, str]]:
        """Answers for all rows, and why there are none for some: their scores are not numbers."""

        def run(rows: Rows) -> Predictions:
            try:
                whole = len(rows) == len(tokens)
                some = tokens if whole else tokens.take(rows)
                return self.engine.classify(
                    some, self.thresholds, audited[rows], self.point.criterion
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


def audit_rows(shard: str, first_row: int, rows: int, rate: float) -> Array:
    """Which rows are audited, bool (rows,): a fixed pseudo-random share of the shard's rows.

    It depends on shard and row number only, so that a retry audits the same rows. The generator
    is splitmix64 (Steele et al. 2014) on the row number, seeded with the shard's name.
    """
    seed = np.frombuffer(hashlib.sha256(shard.encode()).digest()[:8], np.uint64)[0]
    with np.errstate(over="ignore"):
        x = seed + np.arange(first_row + 1, first_row + rows + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    chosen: Array = (x >> np.uint64(11)) * 2.0**-53 < rate
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
