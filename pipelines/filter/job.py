"""The filter job: the input's rows whose labels satisfy a condition, shard by shard."""

import logging
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from fastbert.errors import InputError
from fastbert.filesystem import absolute, redacted
from pipelines.filter.condition import Answer, Condition
from pipelines.filter.kept import Kept, kept_paths
from pipelines.filter.labelled import LABEL, Labelled, labelled
from pipelines.filter.rows import (
    EveryColumn,
    as_lines,
    kept_lines,
    kept_tables,
    write_lines,
    write_parquet,
)
from pipelines.input.columns import listed
from pipelines.input.formats import COMPRESSIONS
from pipelines.input.formats.lines import JsonLines
from pipelines.input.scans import Scans
from pipelines.input.shards import Shard, find_shards
from pipelines.input.slices import Slice
from pipelines.input.unreadable import ShardError, read_patiently
from pipelines.labelling.placement import covering
from pipelines.labelling.progress import counting
from pipelines.machine import cores
from pipelines.output.ledger import Ledger
from pipelines.output.retry import Patience
from pipelines.output.storage import Storage
from pipelines.reports import analytics, terminal
from pipelines.reports.cells import shortened
from pipelines.reports.questions import LABELS
from pipelines.settings import FilterSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Sources in the table.
_SHOWN = 20


def filter_rows(settings: FilterSettings) -> dict[str, Any]:
    """Keep rows, and say how many of which folders. Returns the summary.

    `exit_code` in it is 3 where shards of the input, or of the labels, were passed over. Raises
    InputError, before anything is written, for wrong places and conditions, and where no shard has
    its labels; FastBertError where a condition fails on a value.
    """
    job = Filter(settings)
    counts = job.run()
    for url, reason in job.bad_shards.items():
        log.warning("passed over: %s %s", url, reason)
    frame = _by_source(counts)
    rows, kept = int(frame["rows"].sum()), int(frame["kept"].sum())
    console = terminal.console(settings.json)
    terminal.show(console, "kept rows", *shortened(frame, "sources", _SHOWN))
    console.print(f"{kept:,} of {rows:,} rows are kept.")
    if not kept:
        labels = analytics.open(settings.output).query(LABELS)["label"].tolist()
        log.warning(
            "the condition %s is true of no row%s",
            *(settings.where, f"; the labels are {listed(labels)}" if labels else ""),
        )
    return {
        "output": redacted(settings.output),
        "kept": redacted(settings.kept),
        "shards": len(counts),
        "files": sum(count.file is not None for count in counts),
        "rows": rows,
        "kept_rows": kept,
        "percent": _percent(kept, rows),
        "sources": frame.to_dict("records"),
        "bad_shards": job.bad_shards,
        "exit_code": 3 if job.bad_shards else 0,
    }


@dataclass
class Count:
    """What has become of a shard's rows."""

    shard: Shard
    rows: int = 0
    kept: int = 0
    file: str | None = None  # of the kept ones, if there are some


class Filter:
    """One run: what was asked for, checked, before anything is written."""

    def __init__(self, settings: FilterSettings) -> None:
        self.inputs = tuple(absolute(url) for url in settings.input)
        self.format, storage = settings.format, Storage(absolute(settings.output))
        shards = find_shards(list(self.inputs))
        self.paths = kept_paths(shards, settings.format)
        self._check_places(settings, shards)
        self.labelled, self.bad_shards = labelled(shards, Ledger(storage).committed().commits)
        if not self.labelled:
            url, reason = next(iter(self.bad_shards.items()))
            raise InputError(
                f"no file of --input has its labels in --output {redacted(settings.output)}; "
                f"{url} {reason}; expected the --input that was labelled"
            )
        self.condition = Condition(settings.where, settings.carry, storage, self.labelled)
        self.columns = EveryColumn(fields=self._fields(storage))
        self.kept = Kept(absolute(settings.kept))
        self.facts = {"output": redacted(settings.output), "where": settings.where}

    def _check_places(self, settings: FilterSettings, shards: list[Shard]) -> None:
        """InputError where kept rows would be taken for input or labels."""
        output, kept = (os.path.realpath(absolute(p)) for p in (settings.output, settings.kept))
        files = [f"{kept}/{path}" for path in self.paths.values()]
        if url := covering(self.inputs, shards, f"{kept}/", files):
            raise InputError(
                f"--kept {redacted(settings.kept)} lies inside --input {redacted(url)}, or around "
                "it, and kept rows would be taken for input; put it beside the input"
            )
        if f"{kept}/".startswith(f"{output}/") or f"{output}/".startswith(f"{kept}/"):
            raise InputError(
                f"--kept {redacted(settings.kept)} lies inside --output "
                f"{redacted(settings.output)}, or around it, where only labelling may write; put "
                "it beside the output"
            )

    def _fields(self, storage: Storage) -> pa.Schema:
        """The columns of formats that say no types, as labelling has read them."""
        untyped = [each.shard for each in self.labelled if not each.shard.format.typed]
        scans = Scans(storage)
        if not untyped or (found := scans.settled()) is None:
            for shard in untyped:  # what was settled is lost
                scans.of(shard, EveryColumn())
            found = scans.fields()
        return found

    def run(self) -> list[Count]:
        """Keep the rows of each shard. Returns what has become of those that are not among
        `bad_shards` then."""
        planned = {self.paths[each.shard.name] for each in self.labelled}
        self.kept.begin(planned, self.facts)
        total = sum(each.rows for each in self.labelled)
        found: list[Count] = []
        with counting(total) as counter, ThreadPoolExecutor(cores()) as pool:
            outcomes = pool.map(self._outcome, self.labelled)
            for each, outcome in zip(self.labelled, outcomes, strict=True):
                counter.advance(each.rows)
                if isinstance(outcome, Count):
                    found.append(outcome)
                else:
                    self.bad_shards[redacted(each.shard.url)] = outcome
        # They were opened after they were listed.
        now = {shard.name: shard.version for shard in find_shards(list(self.inputs))}
        for count in found:
            if now.get(count.shard.name) != count.shard.version:
                self.bad_shards[redacted(count.shard.url)] = (
                    f"changed while it was read; {LABEL}, and filter again"
                )
        found = [count for count in found if redacted(count.shard.url) not in self.bad_shards]
        self.kept.end({count.file for count in found if count.file}, self.facts)
        return found

    def _outcome(self, each: Labelled) -> Count | str:
        """What has become of a shard, or why it is passed over."""
        try:
            return read_patiently(Patience(), self._keep, each)
        except ShardError as error:
            return str(error)

    def _keep(self, each: Labelled) -> Count:
        shard, count = each.shard, Count(each.shard, each.rows)
        answers = self._answers(each, count)
        if self.format == "parquet":
            return self._write(count, kept_tables(answers, self.columns), write_parquet)
        compression = COMPRESSIONS.get(self.format.rpartition(".")[2])
        if isinstance(shard.format, JsonLines):
            lines = kept_lines(shard, answers, self.columns.fields)
        else:
            lines = as_lines(kept_tables(answers, self.columns))
        return self._write(count, lines, partial(write_lines, compression=compression))

    def _answers(self, each: Labelled, count: Count) -> Iterator[tuple[Slice, Answer]]:
        for piece in each.slices():
            answer = self.condition.answer(piece, each.version)
            count.kept += int(answer.kept.sum())
            yield piece, answer

    def _write(
        self, count: Count, parts: Iterator[T], write: Callable[[str, Iterable[T]], None]
    ) -> Count:
        """Write what is kept of a shard; no file where that is nothing."""
        if (first := next(parts, None)) is not None:
            count.file = self.paths[count.shard.name]
            with self.kept.storage.writing(count.file) as path:
                write(path, chain([first], parts))
        return count


def _by_source(counts: list[Count]) -> pd.DataFrame:
    """Rows by the first folder of a shard's path below its input, or, of a shard in none, the
    folder that it lies in; most rows first."""
    sums: dict[str, list[int]] = {}
    for count in counts:
        folder, inside, _ = count.shard.name.partition("/")
        source = folder if inside else posixpath.basename(posixpath.dirname(count.shard.url))
        before = sums.setdefault(source, [0, 0])
        sums[source] = [before[0] + count.rows, before[1] + count.kept]
    rows = [
        (source, total, kept, _percent(kept, total))
        for source, (total, kept) in sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    ]
    return pd.DataFrame(rows, columns=["source", "rows", "kept", "percent"])


def _percent(kept: int, rows: int) -> float:
    return round(100 * kept / rows, 2) if rows else 0.0
