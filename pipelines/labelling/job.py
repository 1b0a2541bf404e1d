"""The labelling job: plan, run the stages, sum up, all of it while the output is locked."""

import logging
import os
import re
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec.utils import glob_translate

from fastbert.checkpoint import (
    check_weights,
    fetch_checkpoint,
    fingerprint,
    load_config,
    load_tokenizer,
)
from fastbert.configuration import FastBertConfig
from fastbert.errors import InputError, Stopped
from fastbert.exits.operating_point import OperatingPoint
from fastbert.filesystem import absolute, shown
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard, find_shards
from pipelines.labelling.audit import audit
from pipelines.labelling.commit import Commit
from pipelines.labelling.plan import Plan, make_plan
from pipelines.labelling.progress import counting
from pipelines.output.ledger import Ledger, Record, table_path
from pipelines.output.lock import RunLock
from pipelines.output.schema import SCHEMA_VERSION
from pipelines.output.storage import Storage
from pipelines.settings import LabelSettings

if TYPE_CHECKING:
    from pipelines.running.ray_data import Share

log = logging.getLogger(__name__)


def label(settings: LabelSettings) -> dict[str, Any]:
    """Bring the output up to date with the input. Returns the run's summary.

    `exit_code` in it is 0 when all is labelled, and 3 where shards could not be read or more rows
    than allowed have an error. Raises InputError, before any work, for wrong input or settings,
    OutputHeld if another run is at work on the output, and Stopped on SIGTERM.
    """
    settings = with_absolute_places(settings)
    job = Job.of(settings)
    if settings.dry_run:
        plan = job.plan()
        return job.heading(plan) | {
            "dry_run": True,
            "slices_to_label": len(plan.todo),
            "rows_to_label": sum(piece.rows for piece in plan.todo),
            "slices_to_remove": len(plan.superseded) + settings.prune * len(plan.vanished),
            "leftovers_to_remove": len(plan.leftovers),
            "bad_shards": plan.bad_shards,
        }
    with stopped_by_sigterm(), RunLock(job.ledger.storage, job.run_id) as lock:
        return job.run(lock)


@dataclass(frozen=True)
class Job:
    """One run: what was asked for, checked, before anything is done."""

    settings: LabelSettings
    run_id: str
    checkpoint: Path
    config: FastBertConfig
    point: OperatingPoint
    columns: InputColumns
    ledger: Ledger

    @classmethod
    def of(cls, settings: LabelSettings) -> "Job":
        """Check settings and checkpoint; InputError if they do not fit."""
        checkpoint = fetch_checkpoint(settings.model)
        config = load_config(checkpoint)
        point = OperatingPoint.asked(config, settings.speed, settings.operating_point)
        return cls(
            settings=settings,
            run_id=settings.run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}",
            checkpoint=checkpoint,
            config=config,
            point=point,
            columns=InputColumns(
                settings.text_column, settings.pair_column, settings.carry or None
            ),
            ledger=Ledger(Storage(settings.output)),
        )

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What a slice's labels depend on, beside the shard: all but the precision, which may
        differ from node to node."""
        columns = self.columns
        return {
            "checkpoint": fingerprint(self.checkpoint),
            "criterion": self.point.criterion,
            "thresholds": self.point.thresholds,
            "text_column": columns.text,
            "pair_column": columns.pair,
            "carry": None if columns.carry is None else list(columns.carry),
            "max_length": self.config.max_length,
            "schema_version": SCHEMA_VERSION,
        }

    def plan(self) -> Plan:
        """Compare input and ledger."""
        settings = self.settings
        shards = find_shards(list(settings.input))
        check_apart(settings, shards)
        plan = make_plan(
            shards,
            self.ledger.committed(),
            self.recipe,
            self.columns,
            settings.slice_rows,
            settings.relabel,
            settings.retry_quarantined,
        )
        log.info(
            "%d shards: %d slices with %d rows to label, %d slices up to date, %d shards "
            "unreadable",
            len(shards),
            len(plan.todo),
            sum(piece.rows for piece in plan.todo),
            len(plan.up_to_date),
            len(plan.bad_shards),
        )
        return plan

    def heading(self, plan: Plan) -> dict[str, Any]:
        """How every summary begins."""
        return {
            "run_id": self.run_id,
            "output": shown(self.settings.output),
            "model": shown(self.settings.model),
            "checkpoint": self.recipe["checkpoint"],
            "operating_point": self.point.name,
            "criterion": self.point.criterion,
            "thresholds": list(self.point.thresholds),
            "shards": plan.shards,
            "slices_up_to_date": len(plan.up_to_date),
        }

    def run(self, lock: RunLock) -> dict[str, Any]:
        """Label, and sum up, while the lock is held."""
        started, started_at = time.monotonic(), datetime.now(UTC)
        settings, ledger = self.settings, self.ledger
        plan = self.plan()
        share = None
        if plan.todo:  # all that can be refused, before anything is changed
            check_weights(self.checkpoint)
            load_tokenizer(self.checkpoint)
            from fastbert.inference.precision import resolve
            from pipelines.running.ray_data import share_of_cluster

            share = share_of_cluster(settings)
            device = "cuda" if share.replica_gpus else "cpu"
            check_precision(self.point, resolve(settings.precision, device, self.point.proven_in))
        removed = plan.superseded + (plan.vanished if settings.prune else [])
        ledger.storage.clear_staging()
        ledger.sweep(plan.leftovers)
        for record in removed:
            ledger.forget(record)
        for record in plan.replaced:
            ledger.withdraw(record)
        if plan.todo:
            ledger.reopen(self.run_id)
        records = [] if share is None else self._label(plan, share, lock)
        summary = self.heading(plan) | {"slices_removed": len(removed)} | totals(records)
        summary["bad_shards"] = plan.bad_shards
        agreements = sum(record.audit_agreements for record in records)
        summary |= audit(
            self.point,
            summary["exits"],
            summary["audit_rows"],
            agreements,
            settings.drift_tolerance,
        )
        summary["started_at"] = started_at.isoformat(timespec="milliseconds")
        summary["seconds"] = round(time.monotonic() - started, 1)
        if settings.price_per_hour is not None:
            summary |= prices(records, settings.price_per_hour)
        too_many = summary["error_rows"] > settings.max_bad_rows * summary["rows"]
        summary["exit_code"] = 3 if plan.bad_shards or too_many else 0
        for url, reason in plan.bad_shards.items():
            log.warning("not labelled: %s %s", url, reason)
        if too_many:
            log.warning("%d of %d rows have an error", summary["error_rows"], summary["rows"])
        for alarm in summary["alarms"]:
            log.warning("ALARM: %s", alarm)
        kept = plan.up_to_date + plan.spared + ([] if settings.prune else plan.vanished)
        killed = ledger.unreported(kept)
        if plan.todo or removed or plan.bad_shards or killed:
            lock.check()
            ledger.close_run(self.run_id, summary, kept + records, killed)
        return summary

    def _label(self, plan: Plan, share: "Share", lock: RunLock) -> list[Record]:
        """Run the plan's slices through the stages; what cannot be read joins its bad shards."""
        from pipelines.running.metrics import Metrics
        from pipelines.running.ray_data import run_stages

        metrics = Metrics(shown(self.settings.output))
        commit = Commit(self.settings.output, self.run_id, self.recipe, self.point.name, lock.token)
        slices = run_stages(
            plan.todo,
            self.settings,
            self.point,
            self.config.max_length,
            self.columns,
            commit,
            share,
        )
        records: list[Record] = []
        # Again, because Ray has set a handler of its own since.
        rows, price = sum(piece.rows for piece in plan.todo), self.settings.price_per_hour
        with stopped_by_sigterm(), counting(rows, price) as counter:
            try:
                for work in slices:
                    lock.check()
                    if isinstance(work, Record):
                        records.append(work)
                        counter.advance(work.rows, work.exits, work.device_seconds)
                        metrics.add(work)
                    else:
                        plan.bad_shards[shown(work.slice.shard.url)] = str(work.failure)
                        counter.advance(work.slice.rows)
            except Exception:
                lock.check()  # if it is lost, that is why
                raise
        return records


def check_precision(point: OperatingPoint, precision: str) -> None:
    """Warn where the promise was proven in another precision than the run's."""
    if point.promise and point.evidence and point.evidence.precision != precision:
        log.warning(
            "'%s' was calibrated in %s, this run labels in %s, for which nothing is proven; "
            "calibrate with --precision %s, or watch what --audit-rate finds",
            *(point.name, point.evidence.precision, precision, precision),
        )


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, with which schedulers and Ray stop a job, raises Stopped; in the main thread only,
    others cannot have handlers."""

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    again: list[threading.Timer] = []

    def stop(*_: object) -> None:
        # The signal may arrive where some library swallows all exceptions.
        again.append(threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]))
        again[-1].start()
        raise Stopped("stopped by SIGTERM; what is committed is kept, the next run goes on")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)


def with_absolute_places(settings: LabelSettings) -> LabelSettings:
    """The settings with every local path absolute: the stages run in other folders.

    Raises InputError for places that other processes cannot see.
    """
    return replace(
        settings,
        input=tuple(absolute(url) for url in settings.input),
        output=absolute(settings.output),
        model=absolute(settings.model),
    )


def check_apart(settings: LabelSettings, shards: list[Shard]) -> None:
    """Raises InputError if the input covers labels of these shards, there or to come: the next run
    would take them for texts."""
    # Without `..` and links. URLs look odd after that, but lie in each other as before.
    root = os.path.realpath(settings.output)
    table = f"{root}/table/"
    labels = [f"{root}/{table_path(shard.name, 0)}" for shard in shards]
    folders = {os.path.dirname(shard.url) for shard in shards}
    taken_in = any(f"{os.path.realpath(absolute(f))}/".startswith(table) for f in folders)
    for url in settings.input:
        place = os.path.realpath(url)
        matched = False
        if not os.path.exists(place):  # a glob
            matched = any(map(re.compile(glob_translate(place)).match, labels))
        if taken_in or table.startswith(f"{place}/") or matched:
            raise InputError(
                f"--output {shown(settings.output)} lies inside --input {shown(url)}, which would "
                "take labels for texts; put it beside the input"
            )


def totals(records: list[Record]) -> dict[str, Any]:
    """What a run has done, added up."""
    rows = sum(r.rows for r in records)
    exits = [sum(counts) for counts in zip(*(r.exits for r in records), strict=True)]
    labels: Counter[str] = Counter()
    for record in records:
        for counts in record.exit_labels:
            labels.update(counts)
    labelled = sum(exits)
    flops = sum(sum(r.exit_flops) for r in records)
    full = sum(r.full_flops for r in records)
    mean = sum(k * count for k, count in enumerate(exits, 1)) / labelled if labelled else None
    return {
        "slices_labelled": len(records),
        "rows": rows,
        "error_rows": sum(r.error_rows for r in records),
        "quarantined_slices": sum(r.quarantined for r in records),
        "retries": sum(r.retries for r in records),
        "tokens": sum(r.tokens for r in records),
        "exits": exits,
        "labels": dict(labels.most_common()),
        "mean_exit_layer": None if mean is None else round(mean, 4),
        "flops": flops,
        "full_flops": full,
        "flops_speedup": round(full / flops, 3) if flops else None,
        "audit_rows": sum(r.audit_rows for r in records),
        "audit_flops": sum(r.audit_flops for r in records),
        "device_seconds": round(sum(r.device_seconds for r in records), 2),
    }


def prices(records: list[Record], per_hour: float) -> dict[str, Any]:
    """What the replicas' time has cost, in the currency of `per_hour`."""
    price = sum(r.device_seconds for r in records) / 3600 * per_hour
    rows = sum(r.rows for r in records)
    return {
        "price": round(price, 6),
        "price_per_million_rows": round(1e6 * price / rows, 4) if rows else None,
    }
