"""The labelling job: plan, run the stages and summarise, while the output is locked."""

import logging
import time
import uuid
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa

from fastbert.checkpoint import fetch_checkpoint, fingerprint
from fastbert.errors import InputError
from fastbert.exits.operating_point import WHERE, OperatingPoint
from fastbert.filesystem import redacted
from fastbert.outline import read_outline
from fastbert.writable import check_file
from pipelines.input.scans import Scans
from pipelines.input.shards import find_shards
from pipelines.input.texts import tell_truncated
from pipelines.labelling.adopt import adopt
from pipelines.labelling.audit import audits
from pipelines.labelling.placement import check_apart, model_placed, placed
from pipelines.labelling.plan import Plan, make_plan
from pipelines.labelling.point import asked_point, check_precision, point_of_output
from pipelines.labelling.run import Executor, Resources, Run, columns_of
from pipelines.labelling.signals import Stops
from pipelines.labelling.summary import RUNS, Tally, prices, startup, totals
from pipelines.labelling.work import Failed
from pipelines.output import last_run
from pipelines.output.committed import Committed
from pipelines.output.identity import Identity, questions_text
from pipelines.output.ledger import Ledger
from pipelines.output.lock import RunLock, check_held
from pipelines.output.manifests import rows_of
from pipelines.output.storage import Storage
from pipelines.settings import LabelSettings

log = logging.getLogger(__name__)

#: By name, because it imports torch, which not every run needs.
PREFLIGHT = "pipelines.labelling.preflight:preflight"


def label(settings: LabelSettings, executor: Executor) -> dict[str, Any]:
    """Bring the output up to date with the input. Returns the run's summary.

    Its `exit_code` is 0 if everything is labelled, 3 if shards could not be read or more rows than
    allowed have an error, and otherwise, with alarms, `alarm_exit_code`. Raises InputError, before
    any work, for wrong input or settings, OutputHeld if another run holds the output, and Stopped
    on SIGTERM or Ctrl-C.
    """
    settings = replace(placed(settings), model=model_placed(settings.model))
    job = Job(settings)
    if settings.dry_run:
        plan = job.plan()
        return job.heading(plan) | {
            "dry_run": True,
            "slices_to_label": len(plan.todo),
            "rows_to_label": plan.rows,
            "estimate": job.estimate(plan) if plan.todo else None,
            "slices_to_remove": len(plan.removed),
            "leftovers_to_remove": len(plan.swept),
            "leftovers": len(plan.left),
            "bad_shards": plan.bad_shards,
        }
    lock, stops = RunLock(job.ledger.storage, job.run_id), Stops()

    def work() -> dict[str, Any]:
        with closing(executor):  # also if the run is refused
            return job.run(lock.acquire(), executor, stops)

    return stops.during(work, lock.release)


class Job:
    """One run: its settings, checked before anything is done."""

    def __init__(self, settings: LabelSettings) -> None:
        """Check settings and checkpoint; raises InputError if they do not fit."""
        self.settings = settings
        self.checkpoint = fetch_checkpoint(settings.model)
        self.config = read_outline(self.checkpoint)
        self.asked = asked_point(settings, self.config)
        #: Known with the plan, because they may depend on the output's content.
        self.point: OperatingPoint
        self.identity: Identity
        self.ledger = Ledger(Storage(settings.output))
        self.scans = Scans(self.ledger.storage, keep=not settings.dry_run)
        started = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self.run_id = settings.run_id or f"{started}-{uuid.uuid4().hex[:4]}"

    def plan(self) -> Plan:
        """Compare input and ledger."""
        settings = self.settings
        shards = find_shards(list(settings.input))
        self.passed_over = shards.passed_over
        check_apart(settings, shards)
        output = self.ledger.committed()
        self._settle(self._last_recipe(output))
        if settings.change != "relabel":
            output = adopt(self.ledger, output, shards, self.identity, self.run_id)
        plan = make_plan(
            shards,
            output,
            self.identity,
            replace(columns_of(self.identity), id=settings.id_column),
            settings.slice_rows,
            settings.change,
            settings.retry_quarantined,
            None if settings.precision == "auto" else settings.precision,
            settings.retry_errors,
            settings.prune,
            self.scans,
        )
        log.info(
            "%d shards: %d slices with %d rows to label, %d slices up to date, %d shards "
            "unreadable",
            *(plan.shards, len(plan.todo), plan.rows, len(plan.up_to_date), len(plan.bad_shards)),
        )
        if plan.gone:
            log.info(
                "%d slices of shards that are no longer in the input keep their labels; "
                "--prune removes them",
                plan.gone,
            )
        return plan

    def _last_recipe(self, output: Committed) -> dict[str, Any] | None:
        """The recipe of the output's last commit; None for a new output."""
        if (last := output.recipe()) is not None:
            return last
        described = self.ledger.described([*output.stray][:1], self.run_id)
        return described[0].recipe if described else None  # the ledger may be lost

    def _settle(self, last: dict[str, Any] | None) -> None:
        """Set point and identity of this run, for an output with this last recipe."""
        settings, checkpoint = self.settings, fingerprint(self.checkpoint)
        same_model = last if last and last.get("checkpoint") == checkpoint else None
        self.point = self.asked or point_of_output(self.config, same_model)
        begun_with = last is None or last.get("truncated", False)
        self.identity = Identity(
            checkpoint=checkpoint,
            **self.point.where(),
            kinds={each.name: each.kind for each in self.config.question_list},
            exit_depths=[each.depth for each in self.config.exit_list],
            text_column=settings.text_column,
            pair_column=settings.pair_column,
            carry=None if settings.carried is None else list(settings.carried),
            max_length=self.config.max_length,
            windows=self._windows(),
            truncated=begun_with or settings.truncated,
            all_scores=(all_scores := self._all_scores(last)),
            classes=self.config.label_names if all_scores else None,
        )

    def _windows(self) -> dict[str, Any] | None:
        """How longer texts are read; pairs are always truncated."""
        found = None if self.settings.pair_column else self.config.windowing
        return None if found is None else msgspec.structs.asdict(found)

    def _all_scores(self, last: dict[str, Any] | None) -> bool:
        """Whether there is a column of all probabilities: on request, and in outputs that have one.
        Raises InputError for a score."""
        kinds = {each.kind for each in self.config.question_list}
        if self.settings.all_scores and kinds == {"score"}:
            raise InputError("--all-scores needs labels, but the checkpoint gives a score")
        going_on = last is not None and self.settings.change != "relabel"
        return self.settings.all_scores or bool(going_on and last and last.get("all_scores"))

    def heading(self, plan: Plan) -> dict[str, Any]:
        """The first fields of every summary."""
        return {
            "run_id": self.run_id,
            "output": redacted(self.settings.output),
            "model": redacted(self.settings.model),
            "checkpoint": self.identity.checkpoint,
            "operating_point": self.point.name,
            **{key: getattr(self.identity, key) for key in WHERE},
            "questions": questions_text(self.identity),
            "shards": plan.shards,
            "passed_over": self.passed_over,
            "slices_up_to_date": len(plan.up_to_date),
            "slices_adopted": len(plan.adopted),
        }

    def estimate(self, plan: Plan) -> dict[str, Any] | None:
        """How long the plan will take, logged and for the summary. Raises InputError for a
        checkpoint that cannot label."""
        from fastbert.weights import load_checkpoint  # imports torch
        from pipelines.labelling.estimate import by_last_run, by_probe

        asked = self.settings.precision
        found = by_last_run(self.ledger.storage, self.identity, plan.rows)
        if found:
            load_checkpoint(self.checkpoint, bool(self.settings.pair_column))
        else:
            found = by_probe(self.checkpoint, self.identity, self.point, asked, plan.todo)
        if found is None:
            return None
        log.info("%d rows: %s", plan.rows, found.in_words())
        return found.summary()

    def run(self, lock: RunLock, executor: Executor, stops: Stops) -> dict[str, Any]:
        """Label and summarise, while the lock is held."""
        started, started_at = time.monotonic(), datetime.now(UTC)
        ledger, plan = self.ledger, self.plan()
        prepared = self._prepare(plan, executor, lock) if plan.todo else None
        stops.listen()  # Ray sets handlers of its own
        check_held(ledger.storage, lock.token)  # the start may have taken long
        self._make_way(plan)
        done, failed = self._label(plan, executor, *prepared, lock) if prepared else (Tally(), {})
        bad_shards = plan.bad_shards | failed
        found = self._summary(plan, done) | {
            "bad_shards": bad_shards,
            "started_at": started_at.isoformat(timespec="milliseconds"),
            "seconds": round(time.monotonic() - started, 1),
            "startup_seconds": startup(done, started_at),
            "max_bad_rows": self.settings.max_bad_rows,
        }
        too_many = found["error_rows"] > self.settings.max_bad_rows * found["rows"]
        alarm = self.settings.alarm_exit_code if found["alarms"] else 0
        found["exit_code"] = 3 if bad_shards or too_many else alarm
        summary = {name: found[name] for name in RUNS.names if name in found}
        for url, reason in bad_shards.items():
            log.warning("not labelled: %s %s", url, reason)
        if too_many:
            log.warning("%d of %d rows have an error", found["error_rows"], found["rows"])
        if found["model_errors"]:
            log.warning(
                "%d rows have an error not caused by their text; --retry-errors labels their "
                "slices again",
                found["model_errors"],
            )
        by = self.identity
        tell_truncated(found["truncated_rows"], found["rows"], by.max_length, by.windowing)
        for alarm in found["alarms"]:
            log.warning("ALARM: %s", alarm)
        kept = pa.concat_tables([plan.up_to_date, plan.spared])
        new = pa.concat_tables([rows_of(plan.adopted), done.table()])
        killed = ledger.unreported(kept)
        if plan.changes or bad_shards or killed:
            lock.check()
            ledger.close_run(self.run_id, summary, kept, new, killed)
        lock.check()
        ledger.fold(new)
        ledger.storage.clear_staging()  # committers may have been killed
        self.scans.clear()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        ended = last_run.LastRun(
            run_id=self.run_id, ended_at=now, exit_code=found["exit_code"], bad_shards=bad_shards
        )
        last_run.write(ledger.storage, ended)
        if len(new) and not len(kept):
            log.info("next: fastbert report --output %s", summary["output"])
        return summary

    def _make_way(self, plan: Plan) -> None:
        """Remove and withdraw commits that the plan replaces; write lost records."""
        ledger = self.ledger
        ledger.storage.clear_staging()
        ledger.sweep(plan.swept)
        if plan.todo or plan.adopted:
            ledger.reopen(self.run_id)
            self.scans.settle(plan.fields)
        ledger.forget(plan.removed)
        ledger.withdraw(plan.replaced)
        ledger.adopt(plan.adopted)

    def _summary(self, plan: Plan, done: Tally) -> dict[str, Any]:
        """What the run has found and done, except how it ended."""
        settings, sums = self.settings, totals(done)
        return {
            **self.heading(plan),
            **sums,
            **prices(done, settings.price_per_hour),
            **audits(self.point, sums, done.audit_agreements, settings.drift_tolerance),
            "slices_removed": len(plan.removed),
            "leftovers_removed": len(plan.swept),
            "leftovers": len(plan.left),
        }

    def _prepare(self, plan: Plan, executor: Executor, lock: RunLock) -> tuple[Run, Resources]:
        """Make all checks that can refuse the run, before anything changes."""
        if self.settings.metrics_file:
            check_file(self.settings.metrics_file)
        resources = executor.resources(self.settings)
        asked, pairs = self.settings.precision, bool(self.settings.pair_column)
        found = plan.precision, resources.device, self.point.proven_in
        precision = executor.call(PREFLIGHT, self.checkpoint, pairs, asked, *found)
        check_precision(self.point, precision)
        columns = " and ".join(f"'{name}'" for name in columns_of(self.identity).texts)
        log.info("the text is column %s; '%s', in %s", columns, self.point.name, precision)
        rate, deep = self.settings.audit_rate, self.point.at_full_depth
        if rate and deep:
            log.info("no rows are audited, because all of them pass all layers")
        run = Run(
            model=self.settings.model,
            tokenizer=fingerprint(self.checkpoint, weights=False),
            output=self.settings.output,
            run_id=self.run_id,
            identity=self.identity,
            fields=plan.fields,
            operating_point=self.point.name,
            audit_rate=0.0 if deep else rate,
            precision=precision,
            emulated=asked == precision,
            ranges=self.point.ranges,
            answer_early=resources.answer_early and self._begins_with_tokens(),
            lock=lock.token,
        )
        return run, resources

    def _begins_with_tokens(self) -> bool:
        """Whether rows may leave before the first layer."""
        each = self.point.each()
        return self.config.exit_list[0].head == "bag" and all(p.thresholds[0] > 0 for p in each)

    def _label(
        self, plan: Plan, executor: Executor, run: Run, resources: Resources, lock: RunLock
    ) -> tuple[Tally, dict[str, str]]:
        """Run the plan's slices through the stages. Returns what was committed and, by URL, why
        shards could not be read."""
        from pipelines.labelling.metrics import MetricsFile  # and rich: of no use to other runs
        from pipelines.labelling.progress import counting

        done = Tally()
        failed: dict[str, str] = {}
        price, file = self.settings.price_per_hour, self.settings.metrics_file
        metrics = MetricsFile(file, self.settings.output) if file else None
        outcomes = executor.run(run, plan.todo, resources)
        with closing(outcomes), counting(plan.rows, price, executor.under_way) as progress:
            try:
                for outcome in outcomes:
                    lock.check()
                    progress.add(outcome)
                    if isinstance(outcome, Failed):
                        failed[redacted(outcome.slice.shard.url)] = outcome.reason
                        continue
                    done.add(outcome)
                    if metrics:
                        metrics.add(outcome)
            except Exception:
                lock.check()  # if it is lost, that is why
                raise
        return done, failed
