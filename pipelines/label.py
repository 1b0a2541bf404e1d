"""The labelling job: plan, run the three stages on Ray Data, sum up.

    slices -> ReadTokenize (CPU) -> Label (model replicas) -> Commit (CPU) -> records

This is the only place of the labelling path that knows Ray. The driver sees records, never rows.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from fastbert.checkpoint import check_weights, fetch_checkpoint, fingerprint, load_config
from fastbert.configuration import FastBertConfig
from fastbert.engine import resolve_precision
from fastbert.errors import InputError
from fastbert.filesystem import open_url
from pipelines.commit import Commit
from pipelines.ledger import Ledger, Record
from pipelines.plan import Slice, make_plan
from pipelines.predict import Label
from pipelines.progress import counting
from pipelines.read import ReadTokenize
from pipelines.schema import SCHEMA_VERSION, InputColumns
from pipelines.settings import LabelSettings
from pipelines.shards import find_shards
from pipelines.storage import Storage
from pipelines.work import Work

log = logging.getLogger(__name__)

#: CPUs a commit asks for: it encodes Parquet for moments and waits for the store most of the time.
_COMMIT_CPUS = 0.25
#: Slices an actor works on or has waiting. Ray's default, 2, leaves it idle for the length of one
#: scheduling round whenever a slice takes less time than that; more would hold back slices that
#: another replica could take.
_SLICES_PER_ACTOR = 4


def label(settings: LabelSettings) -> dict[str, Any]:
    """Bring the output up to date with the input. Returns the run's summary.

    `exit_code` in it is 0 when all is labelled, and 3 where shards could not be read or more rows
    than allowed have an error. Raises InputError, before any work, for wrong input or settings.
    """
    started = time.monotonic()
    settings = with_absolute_places(settings)
    checkpoint = fetch_checkpoint(settings.model)
    config = load_config(checkpoint)
    point, thresholds = operating_point(config, settings)
    columns = InputColumns(settings.text_column, settings.pair_column, settings.carry or None)
    recipe = {
        "checkpoint": fingerprint(checkpoint),
        "thresholds": thresholds,
        "text_column": columns.text,
        "pair_column": columns.pair,
        "carry": None if columns.carry is None else list(columns.carry),
        "max_length": config.max_length,
        "schema_version": SCHEMA_VERSION,
    }
    ledger = Ledger(Storage(settings.output))
    shards = find_shards(list(settings.input))
    committed = ledger.records()
    plan = make_plan(shards, committed, recipe, columns, settings.slice_rows, settings.relabel)
    rows = sum(piece.rows for piece in plan.todo)
    log.info(
        "%d shards: %d slices with %d rows to label, %d slices up to date, %d shards unreadable",
        len(shards),
        len(plan.todo),
        rows,
        len(plan.up_to_date),
        len(plan.bad_shards),
    )
    now = datetime.now(UTC)
    run_id = settings.run_id or f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:4]}"
    summary: dict[str, Any] = {
        "run_id": run_id,
        "output": settings.output,
        "operating_point": point,
        "shards": len(shards),
        "slices_up_to_date": len(plan.up_to_date),
    }
    if settings.dry_run:
        return summary | {
            "dry_run": True,
            "slices_to_label": len(plan.todo),
            "rows_to_label": rows,
            "slices_to_remove": len(plan.superseded) + settings.prune * len(plan.vanished),
            "bad_shards": plan.bad_shards,
        }
    records: list[Record] = []
    share = None
    if plan.todo:  # all that can be refused, before anything is changed
        check_weights(checkpoint)
        from pipelines.ray_cluster import cluster_resources, cores

        share = share_out(settings, cluster_resources(), cores())
        resolve_precision(settings.precision, "cuda" if share.replica_gpus else "cpu")
    removed = plan.superseded + (plan.vanished if settings.prune else [])
    for record in removed:
        ledger.forget(record)
    for record in plan.replaced:
        ledger.withdraw(record)
    gone = {record.slice_id for record in removed + plan.replaced}
    kept = [record for record in committed if record.slice_id not in gone]
    if share is not None:
        commit = Commit(settings.output, run_id, recipe, point)
        with counting(rows) as counter:
            for work in run_stages(plan.todo, settings, thresholds, columns, config, commit, share):
                if isinstance(work, Record):
                    records.append(work)
                    counter.advance(work.rows)
                else:
                    plan.bad_shards[work.slice.shard.url] = str(work.failure)
                    counter.advance(work.slice.rows)
    summary |= totals(records) | {"bad_shards": plan.bad_shards}
    summary["seconds"] = round(time.monotonic() - started, 1)
    if settings.price_per_hour is not None:
        summary |= prices(records, settings.price_per_hour)
    too_many = summary["error_rows"] > settings.max_bad_rows * summary["rows"]
    summary["exit_code"] = 3 if plan.bad_shards or too_many else 0
    for url, reason in plan.bad_shards.items():
        log.warning("not labelled: %s %s", url, reason)
    if too_many:
        log.warning("%d of %d rows have an error", summary["error_rows"], summary["rows"])
    killed = ledger.unreported(kept)
    if plan.todo or removed or plan.bad_shards or killed:
        ledger.close_run(run_id, summary, kept + records, killed)
    return summary


def operating_point(config: FastBertConfig, settings: LabelSettings) -> tuple[str, list[float]]:
    """The name of the point to work at and its L - 1 thresholds."""
    layers = config.backbone_config().num_hidden_layers
    if settings.speed is not None:
        return f"speed {settings.speed:g}", [settings.speed] * (layers - 1)
    points = config.operating_points or {}
    name = settings.operating_point or config.default_operating_point
    if name is None:
        raise InputError(
            "the checkpoint has no default operating point; pass --speed (0 is full depth, 1 is "
            "fastest) or --operating-point"
        )
    if name not in points:
        raise InputError(
            f"the checkpoint has no operating point '{name}'; it has "
            f"{', '.join(points) or 'none'}; --speed needs none"
        )
    thresholds = [float(threshold) for threshold in points[name]["thresholds"]]
    if len(thresholds) != layers - 1:
        raise InputError(
            f"the checkpoint's operating point '{name}' has {len(thresholds)} thresholds, expected "
            f"{layers - 1}; calibrate it again or pass --speed"
        )
    return name, thresholds


def with_absolute_places(settings: LabelSettings) -> LabelSettings:
    """The settings with every local path absolute: the stages run in other folders.

    Raises InputError for places that other processes cannot see, and for an output inside the
    input, which would label itself the next time.
    """
    inputs = tuple(absolute(url) for url in settings.input)
    output = absolute(settings.output)
    for url in inputs:
        if f"{output}/".startswith(url.rstrip("/") + "/"):
            raise InputError(
                f"--output {output} lies inside --input {url}, which would take labels for texts; "
                "put it beside the input"
            )
    return replace(settings, input=inputs, output=output, model=absolute(settings.model))


def absolute(url: str) -> str:
    """The URL, or the absolute path if it is local."""
    fs, path = open_url(url)
    if isinstance(fs, MemoryFileSystem):
        raise InputError(f"{url}: no other process sees this one's memory; use another file system")
    return path if isinstance(fs, LocalFileSystem) else url


def run_stages(
    slices: list[Slice],
    settings: LabelSettings,
    thresholds: list[float],
    columns: InputColumns,
    config: FastBertConfig,
    commit: Commit,
    share: "Share",
) -> Iterator[Record | Work]:
    """Run the slices through the stages on Ray; yields a Record for each committed slice, and the
    Work of each slice that could not be read."""
    import ray
    from ray.data import ActorPoolStrategy

    low, high = settings.replica_range()

    def pool(low: int, high: int, start: int) -> ActorPoolStrategy:
        return ActorPoolStrategy(
            min_size=low,
            max_size=high,
            initial_size=start,
            max_tasks_in_flight_per_actor=_SLICES_PER_ACTOR,
        )

    # One slice = one row = one block = one task. Not `from_arrow`: it runs a task per block.
    rows = [Work(piece).to_row() for piece in slices]
    data = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(
            ReadTokenizeActor,
            fn_constructor_args=(settings.model, config.max_length, columns),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=share.reader_cpus,
            compute=pool(1, share.readers, 1),
        )
        .map_batches(
            LabelActor,
            fn_constructor_args=(
                settings.model,
                thresholds,
                settings.audit_rate,
                settings.precision,
                share.replica_cpus,
                share.replica_gpus > 0,
            ),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=share.replica_cpus,
            num_gpus=share.replica_gpus or None,
            compute=pool(low, high, high),
        )
        .map_batches(
            CommitActor,
            fn_constructor_args=(commit,),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=_COMMIT_CPUS,
            compute=pool(1, high, 1),
        )
    )
    for row in data.iter_rows():
        if row["record"] is None:
            yield Work.from_block(pa.table({"work": [row["work"]], "payload": [b""]}))
        else:
            yield Record(**json.loads(row["record"]))


@dataclass(frozen=True)
class Share:
    """Who gets what of a cluster."""

    replica_gpus: float  # each
    replica_cpus: int  # each
    readers: int  # at most
    reader_cpus: float  # each


def share_out(settings: LabelSettings, resources: dict[str, float], machine_cores: int) -> Share:
    """Divide the cluster between replicas and readers; InputError if it is too small.

    With GPUs, tokenizing is what may fall behind: readers get all the cores that are left. On
    CPUs the model is slower than any tokenizer by far: replicas get the cores, and one reader per
    replica works beside them. Three pools of actors: Ray never fuses those, so tokenizing stays
    out of the replica.
    """
    low, high = settings.replica_range()
    cpus = resources.get("CPU", 0.0)
    gpus = settings.gpus_per_replica
    if gpus is None:
        gpus = 1.0 if resources.get("GPU") else 0.0
    if gpus:
        reader_cpus, replica_cpus = 1.0, settings.cpus_per_replica or 1
        # A cluster that grows with the work shows few CPUs yet: allow some readers per replica.
        readers = max(4 * high, int(cpus - high * replica_cpus - _COMMIT_CPUS))
    else:
        reader_cpus = 0.5
        fair = min(machine_cores, int(cpus - reader_cpus - _COMMIT_CPUS)) // high
        replica_cpus = settings.cpus_per_replica or max(1, fair)
        readers = high
    needed = low * replica_cpus + reader_cpus + _COMMIT_CPUS
    if needed > cpus and not gpus:  # a GPU cluster may be about to grow
        raise InputError(
            f"the cluster has {cpus:g} CPUs, {low} replicas of {replica_cpus} CPUs with a reader "
            f"need {needed:g}; lower --replicas or --cpus-per-replica, or use a larger cluster"
        )
    return Share(gpus, replica_cpus, readers, reader_cpus)


class OnBlocks:
    """A stage as an actor of Ray Data: made once per actor, called with one slice at a time."""

    make: type

    def __init__(self, *arguments: Any) -> None:
        self.stage = self.make(*arguments)

    def __call__(self, block: pa.Table) -> pa.Table:
        """One slice in, one slice out."""
        done: Work = self.stage(Work.from_block(block))
        return done.to_block()


class ReadTokenizeActor(OnBlocks):
    """`ReadTokenize` under the name that Ray's dashboard shows."""

    make = ReadTokenize


class LabelActor(OnBlocks):
    """`Label` under the name that Ray's dashboard shows."""

    make = Label


class CommitActor:
    """`Commit` at the end of the plan: a labelled slice in, its record out.

    An actor although it keeps no state: as tasks, commits would start ever more worker processes,
    and each has to import what this module needs before its first slice.
    """

    def __init__(self, commit: Commit) -> None:
        self.commit = commit

    def __call__(self, block: pa.Table) -> pa.Table:
        """The slice as it came, without its rows, and the record: null if it was not committed."""
        record = self.commit(Work.from_block(block))
        text = json.dumps(asdict(record)) if record else None
        return pa.table({"work": block["work"], "record": pa.array([text], pa.string())})


def totals(records: list[Record]) -> dict[str, Any]:
    """What a run has done, added up."""
    rows = sum(r.rows for r in records)
    exits = [sum(counts) for counts in zip(*(r.exits for r in records), strict=True)]
    labelled = sum(exits)
    flops = sum(sum(r.exit_flops) for r in records)
    full = sum(r.full_flops for r in records)
    audited = sum(r.audit_rows for r in records)
    mean = sum(k * count for k, count in enumerate(exits, 1)) / labelled if labelled else None
    return {
        "slices_labelled": len(records),
        "rows": rows,
        "error_rows": sum(r.error_rows for r in records),
        "tokens": sum(r.tokens for r in records),
        "exits": exits,
        "mean_exit_layer": None if mean is None else round(mean, 4),
        "flops": flops,
        "full_flops": full,
        "flops_speedup": round(full / flops, 3) if flops else None,
        "audit_rows": audited,
        "audit_agreement": (
            sum(r.audit_agreements for r in records) / audited if audited else None
        ),
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
