"""Second stage, on the model's device: labels, exit layers and costs of a slice."""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fastbert.checkpoint import fetch_checkpoint
from fastbert.errors import FastBertError, InputError
from fastbert.exits.rules import NO_EXIT
from fastbert.inference.columns import NOT_A_NUMBER, columns
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import Predictions
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.finite import speaks_against_the_model
from fastbert.inference.precision import device_name, require
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.tasks.task import Task
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.labelling.audit_rows import audit_rows
from pipelines.labelling.isolate import Rows, isolate
from pipelines.labelling.known import blamed_on_machine, known_tokens
from pipelines.labelling.run import Run, added_by
from pipelines.labelling.token_columns import tokens_of
from pipelines.labelling.work import ERROR, IDS, TRUNCATED, TYPES, Work
from pipelines.output.record import slice_id
from pipelines.output.statistics import UNCERTAINTY_BINS, SliceStats, of_the_model

Array = np.ndarray[Any, Any]
#: Kinds of errors that a slice's record counts; they may name what is a row's own.
_MOST_REASONS = 20
#: Labels that it counts per exit: all, but where classes are so many that records would grow.
_MOST_LABELS = 256


class Classify:
    """A replica of the model: adds the output's columns to a slice."""

    def __init__(self, run: Run, threads: int = 1, cuda: bool = False) -> None:
        """`threads` are CPU threads of the model; `cuda` says whether the replica was given a GPU.

        Raises FastBertError if it does not find that, or cannot do the run's precision, and
        MachineError if the model cannot be made ready, as where it does not fit the memory.
        """
        torch.set_num_threads(threads)
        checkpoint = fetch_checkpoint(run.model, run.identity.checkpoint)
        if cuda and not torch.cuda.is_available():
            raise FastBertError(
                f"this replica was given a GPU, but torch {torch.__version__} sees none; install "
                "a CUDA build of torch on the workers, or pass --gpus-per-replica 0"
            )
        device = "cuda" if cuda else "cpu"
        try:
            require(run.precision, device, run.emulated)
        except InputError as error:  # not of what the user sees: the run is under way
            raise FastBertError(str(error)) from error
        self.device = device_name(device)
        with blamed_on_machine("the model cannot be made ready", self.device):
            model = load_model(checkpoint)
            self.engine = Engine(model, device, DTYPES[run.precision])
            if run.identity.all_scores:
                self.engine.task = self.engine.task.with_scores()
        self.run = run
        self.rule = run.identity.rule
        self.cost = CostModel(model).using(self.rule.used)
        #: Hears of a slice, by name, how many of its rows are done, about.
        self.told: Callable[[str, float], object] = lambda name, rows: None

    def __call__(self, work: Work, given_up: str | None = None) -> Work:
        """Label every row that has tokens; the others keep their error, or get `given_up`, with
        which no row is labelled.

        Raises MachineError and InputError where rows fail and known texts do, too: `check`.
        """
        started = time.monotonic()
        table = work.table.combine_chunks()
        errors = [error or given_up for error in table[ERROR].to_pylist()]
        good = np.array([error is None for error in errors], bool)
        task = self.engine.task.by(self.rule.criterion, self.rule.within)
        tokens, early = tokens_of(table, good), work.early
        lengths = early.lengths[good] if early else tokens.lengths
        where, rate = work.slice, self.run.audit_rate
        audited = audit_rows(where.shard.name, where.first_row, where.rows, rate)[good]
        name = slice_id(where.shard.name, where.first_row)
        found = early.found.take(good) if early else Predictions.none(len(tokens), task)
        failed = self._classify(tokens, audited, found, lambda rows: self.told(name, rows))
        answered = (found.exit != NO_EXIT) & np.isfinite(found.uncertainty)
        odd = len(tokens) - int(answered.sum()) - len(failed)
        if speaks_against_the_model(odd, len(tokens) - len(failed)):
            self.check()
        places = np.flatnonzero(good)
        for row in np.flatnonzero(~answered).tolist():
            why = failed.get(row)
            errors[places[row]] = f"the model failed: {why}" if why else NOT_A_NUMBER
        good[good] = answered  # from here on: the rows that have a label
        found, lengths = found.take(answered), lengths[answered]
        private = {IDS, TYPES, TRUNCATED, ERROR}
        result = table.drop_columns([name for name in table.column_names if name in private])
        answers = columns(found, lengths, good, task, self.cost)
        answers["truncated"] = table[TRUNCATED]
        answers["error"] = pa.array(errors, pa.string())
        reasons = Counter(error for error in errors if error)
        for field in added_by(self.run.identity):
            if field.name == "scores":
                names = json.dumps(list(self.engine.task.names), ensure_ascii=False)
                field = field.with_metadata({"classes": names})
            result = result.append_column(field, answers[field.name])
        stats = replace(
            statistics_of(work.stats, found, lengths, self.cost, task),
            exit_depths=self.run.identity.exit_depths,
            error_rows=int((~good).sum()),
            quarantined=work.stats.quarantined or given_up is not None,
            model_errors=of_the_model(reasons),
            errors=dict(reasons.most_common(_MOST_REASONS)),
            device=self.device,
            precision=self.run.precision,
            device_seconds=time.monotonic() - started,
        )
        return replace(work, table=result, stats=stats, early=None)

    def _classify(
        self,
        tokens: Tokens,
        audited: Array,
        found: Predictions,
        advance: Callable[[float], object],
    ) -> dict[int, str]:
        """Put answers for all rows that have tokens into `found`; why there are none for some.
        `advance` hears how many are done, about."""

        def run(rows: Rows) -> Predictions:
            some = tokens if len(rows) == len(tokens) else tokens.take(rows)
            heard = lambda share: advance(share * len(rows))  # noqa: E731
            return self.engine.classify(some, self.rule, audited[rows], heard)

        parts, failed = isolate(run, np.flatnonzero(tokens.lengths), self.check)
        for rows, part in parts:
            found.put(rows, part)
        return failed

    def check(self) -> None:
        """Label known texts at full depth, where every row comes to that may be no number.

        Raises MachineError if that fails, and InputError if an answer is not a number.
        """
        deepest = replace(self.rule, thresholds=np.zeros_like(self.rule.thresholds))
        with blamed_on_machine("the model fails on known texts, too,", self.device):
            found = self.engine.classify(self._known, deepest)
        if bad := int((~np.isfinite(found.uncertainty)).sum()):
            raise InputError(
                f"the model's answers to {bad} of {len(found.exit)} known texts are not numbers in "
                f"{self.run.precision}: its weights are damaged, or training has diverged; nothing "
                "of such slices is committed: train it again, or pass another --model"
            )

    @cached_property
    def _known(self) -> Tokens:
        identity = self.run.identity
        tokenizer = load_tokenizer(fetch_checkpoint(self.run.model, identity.checkpoint))
        pairs = identity.pair_column is not None
        return known_tokens(Tokenizer(tokenizer), pairs, identity.max_length)


def statistics_of(
    stats: SliceStats, found: Predictions, lengths: Array, cost: CostModel, task: Task
) -> SliceStats:
    """`stats` with what the answers of n rows add to it; `lengths`: tokens, int64 (n,)."""
    last = len(cost.exits) - 1
    left = [found.exit == k for k in range(last + 1)]
    flops = cost.row_flops(lengths, found.exit)
    deepest = cost.row_flops(lengths, np.full_like(found.exit, last))
    agreed = found.audited & ~task.differs(found.answer, found.deep)

    def by_exit(values: Array) -> list[int]:
        return [int(values[at].sum()) for at in left]

    return replace(
        stats,
        tokens=int(lengths.sum()),
        exits=[int(at.sum()) for at in left],
        exit_tokens=by_exit(lengths),
        exit_flops=by_exit(flops),
        exit_labels=[dict(task.count(found.answer[at]).most_common(_MOST_LABELS)) for at in left],
        exit_uncertainties=[
            np.histogram(found.uncertainty[at], UNCERTAINTY_BINS, (0, 1))[0].tolist() for at in left
        ],
        exit_audit_rows=by_exit(found.audited),
        exit_audit_agreements=by_exit(agreed),
        full_flops=int(cost.full_flops(lengths).sum()),
        audit_rows=int(found.audited.sum()),
        audit_agreements=int(agreed.sum()),
        audit_flops=int((deepest - flops)[found.audited].sum()),
    )
