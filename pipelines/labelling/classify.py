"""Second stage, on the model's device: labels, exit layers and costs of a slice."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fastbert.checkpoint import fetch_checkpoint
from fastbert.errors import FastBertError, InputError
from fastbert.exits.question import prefix
from fastbert.exits.rules import NO_EXIT
from fastbert.inference.columns import NOT_A_NUMBER, columns
from fastbert.inference.cost import CostModel
from fastbert.inference.decisions import Predictions, are_numbers, exits_used, row_exits
from fastbert.inference.engine import DTYPES, Engine
from fastbert.inference.finite import speaks_against_the_model
from fastbert.inference.precision import device_name, require
from fastbert.inference.tokenizer import Tokenizer
from fastbert.inference.tokens import Tokens
from fastbert.tasks.questions import Questions
from fastbert.tokenizer import load_tokenizer
from fastbert.weights import load_model
from pipelines.labelling.audit_rows import audit_rows
from pipelines.labelling.isolate import Rows, isolate
from pipelines.labelling.known import blamed_on_machine, known_tokens
from pipelines.labelling.run import Run, added_by
from pipelines.labelling.token_columns import tokens_of
from pipelines.labelling.work import ERROR, IDS, TRUNCATED, TYPES, WINDOWS, Work
from pipelines.output.record import slice_id
from pipelines.output.statistics import UNCERTAINTY_BINS, SliceStats, of_the_model

Array = np.ndarray[Any, Any]
#: Most kinds of errors that a slice's record counts; messages may be specific to a row.
_MOST_REASONS = 20
#: Most labels that it counts per exit, so that many classes do not make large records.
_MOST_LABELS = 256


class Classify:
    """A replica of the model: adds the output's columns to a slice."""

    def __init__(self, run: Run, threads: int = 1, cuda: bool = False) -> None:
        """`threads` are CPU threads of the model; `cuda` is whether the replica was given a GPU.

        Raises FastBertError if there is no GPU, or if it does not support the run's precision, and
        MachineError if the model cannot be loaded, for example for lack of memory.
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
        except InputError as error:  # no input error for the user: the run has started
            raise FastBertError(str(error)) from error
        self.device = device_name(device)
        with blamed_on_machine("the model cannot be made ready", self.device):
            model = load_model(checkpoint)
            self.engine = Engine(model, device, DTYPES[run.precision], ranges=run.ranges)
            if run.identity.all_scores:
                self.engine.questions = self.engine.questions.with_scores()
        self.run = run
        self.rules = run.identity.rules
        self.questions = self.engine.questions.by(self.rules)
        self.cost = CostModel(model).using(exits_used(self.rules))
        #: Called with a slice's name and the approximate number of its rows done.
        self.report: Callable[[str, float], object] = lambda name, rows: None

    def __call__(self, work: Work, given_up: str | None = None) -> Work:
        """Label every row that has tokens; the others keep their error. With `given_up`, label
        none, and give it to all rows as error.

        Raises MachineError and InputError if rows fail and known texts fail, too: see `check`.
        """
        started = time.monotonic()
        table = work.table.combine_chunks()
        errors = [error or given_up for error in table[ERROR].to_pylist()]
        good = np.array([error is None for error in errors], bool)
        tokens, early = tokens_of(table, good), work.early
        lengths = early.lengths[good] if early else tokens.costly
        where, rate = work.slice, self.run.audit_rate
        audited = audit_rows(where.shard.name, where.first_row, where.rows, rate)[good]
        name = slice_id(where.shard.name, where.first_row)
        found = [Predictions.none(len(tokens), asked.task) for asked in self.questions]
        if early:
            found = [each.take(good) for each in early.found]
        failed = self._classify(tokens, audited, found, lambda rows: self.report(name, rows))
        answered = (row_exits(found) != NO_EXIT) & are_numbers(found)
        odd = len(tokens) - int(answered.sum()) - len(failed)
        if speaks_against_the_model(odd, len(tokens) - len(failed)):
            self.check()
        places = np.flatnonzero(good)
        for row in np.flatnonzero(~answered).tolist():
            why = failed.get(row)
            errors[places[row]] = f"the model failed: {why}" if why else NOT_A_NUMBER
        good[good] = answered  # from here on, rows with a label
        found, lengths = [each.take(answered) for each in found], lengths[answered]
        private = {IDS, TYPES, TRUNCATED, ERROR, WINDOWS}
        result = table.drop_columns([name for name in table.column_names if name in private])
        answers = columns(found, lengths, good, self.questions, self.cost)
        answers["truncated"] = table[TRUNCATED]
        answers["error"] = pa.array(errors, pa.string())
        reasons = Counter(error for error in errors if error)
        for field in added_by(self.run.identity):
            classes = self._classes.get(field.name)
            result = result.append_column(
                field.with_metadata({"classes": json.dumps(classes, ensure_ascii=False)})
                if classes
                else field,
                answers[field.name],
            )
        stats = replace(
            statistics_of(work.stats, found, lengths, self.cost, self.questions),
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
        found: list[Predictions],
        advance: Callable[[float], object],
    ) -> dict[int, str]:
        """Put answers for all rows that have tokens into `found`, by question; returns why rows
        have none. `advance` is called with the approximate number of rows done."""

        def run(rows: Rows) -> list[Predictions]:
            some = tokens.take(rows)
            heard = lambda share: advance(share * len(rows))  # noqa: E731
            return self.engine.answer(some, self.rules, audited[rows], heard)

        parts, failed = isolate(run, np.flatnonzero(tokens.lengths), self.check)
        for rows, part in parts:
            for each, answers in zip(found, part, strict=True):
                each.put(rows, answers)
        return failed

    def check(self) -> None:
        """Label known texts at full depth, where every layer's numbers are used.

        Raises MachineError if that fails, and InputError if an answer is not a number.
        """
        deepest = [replace(rule, thresholds=0 * rule.thresholds) for rule in self.rules]
        with blamed_on_machine("the model fails on known texts, too,", self.device):
            found = self.engine.answer(self._known, deepest)
        finite = are_numbers(found)
        if bad := int((~finite).sum()):
            raise InputError(
                f"the model's answers to {bad} of {len(finite)} known texts are not numbers in "
                f"{self.run.precision}: its weights are damaged, or training has diverged; such "
                "slices are not committed: train it again, or pass another --model"
            )

    @cached_property
    def _classes(self) -> dict[str, Sequence[str]]:
        """The classes of columns with a number for each class."""
        return {f"{prefix(asked.name)}scores": asked.task.names for asked in self.questions}

    @cached_property
    def _known(self) -> Tokens:
        identity = self.run.identity
        tokenizer = load_tokenizer(fetch_checkpoint(self.run.model, identity.checkpoint))
        pairs = identity.pair_column is not None
        return known_tokens(Tokenizer(tokenizer, identity.windowing), pairs, identity.max_length)


def statistics_of(
    stats: SliceStats,
    found: list[Predictions],
    lengths: Array,
    cost: CostModel,
    questions: Questions,
) -> SliceStats:
    """`stats` updated with the answers of n rows to each question; `lengths`: tokens, as for
    `CostModel`."""
    exits, last = row_exits(found), len(cost.exits) - 1
    flops = cost.row_flops(lengths, exits)
    deepest = cost.row_flops(lengths, np.full_like(exits, last))
    audited, several = found[0].audited, len(found) > 1
    same = {
        asked.name: audited & ~asked.task.differs(each.answer, each.deep)
        for asked, each in zip(questions, found, strict=True)
    }
    agreed = np.logical_and.reduce([*same.values()])
    # By the question that was answered last.
    unsure = np.max([np.where(each.exit == exits, each.uncertainty, -1) for each in found], 0)
    left = [exits == k for k in range(last + 1)]

    def by_exit(values: Array) -> list[int]:
        return [int(values[at].sum()) for at in left]

    def labels(exit: int) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for asked, each in zip(questions, found, strict=True):
            begins = f"{asked.name}: " if several else ""
            for name, rows in asked.task.count(each.answer[each.exit == exit]).items():
                counts[begins + name] += rows
        return dict(counts.most_common(_MOST_LABELS))

    def answered(rows: dict[str, Array]) -> list[dict[str, int]]:
        """By question, the number of rows answered at each exit."""
        counts = [
            {
                asked.name: int((rows[asked.name] & (each.exit == k)).sum())
                for asked, each in zip(questions, found, strict=True)
            }
            for k in range(last + 1)
        ]
        return [{name: n for name, n in at.items() if n} for at in counts] if several else []

    return replace(
        stats,
        tokens=int(lengths.sum()),
        exits=[int(at.sum()) for at in left],
        exit_tokens=by_exit(lengths),
        exit_flops=by_exit(flops),
        exit_labels=[labels(k) for k in range(last + 1)],
        exit_uncertainties=[
            np.histogram(unsure[at], UNCERTAINTY_BINS, (0, 1))[0].tolist() for at in left
        ],
        exit_answers=answered(dict.fromkeys(same, np.ones(len(exits), bool))),
        exit_agreements=answered(same),
        exit_audit_rows=by_exit(audited),
        exit_audit_agreements=by_exit(agreed),
        full_flops=int(cost.full_flops(lengths).sum()),
        audit_rows=int(audited.sum()),
        audit_agreements=int(agreed.sum()),
        audit_flops=int((deepest - flops)[audited].sum()),
    )
