"""Does an output need a person? What a scheduler asks, as `fastbert report --check`."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from pipelines.output import last_run
from pipelines.output.storage import Storage
from pipelines.reports.analytics import Analytics

#: The exit code of a check that finds something.
NEEDS_A_PERSON = 5
#: Lines of one kind, as of unreadable shards.
_MOST = 20

#: Newest first.
_SUMMARIES = "select * from summaries order by started_at desc nulls last, run_id desc"


@dataclass(frozen=True)
class Finding:
    """What a check says, a line for each thing."""

    needs: list[str]  # a person
    older: list[str]  # alarms of earlier runs, which stand in the report
    last: str  # which run has ended last, and when

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return NEEDS_A_PERSON if self.needs else 0

    def lines(self) -> list[str]:
        """For people."""
        needs = [f"ALARM: {line}" for line in self.needs]
        older = [f"earlier: {line}" for line in self.older]
        return [*needs, *older, f"{self.last}; {len(self.needs) or 'nothing'} to look at"]


def check(found: Analytics, max_age: float | None) -> Finding:
    """Look at the runs that have ended: at alarms and bad rows of the last one that has labelled
    something, and at shards that the last one of all could not read. With `max_age`, in hours, an
    older last run needs a person, too."""
    runs = found.query(_SUMMARIES)
    labelled = runs[runs["rows"] > 0]
    ended, bad_shards, last = _last(found.storage, runs)
    recent, older = (
        [f"{run['run_id']}: {alarm}" for run in some for alarm in _listed(run["alarms"])]
        for some in (_rows(labelled[:1]), _rows(labelled[1:]))
    )
    needs = [
        *recent,
        *_some([f"cannot be read: {url}: {why}" for url, why in bad_shards.items()]),
        *(_bad_rows(labelled.iloc[0]) if len(labelled) else []),
        *([] if max_age is None else _too_old(ended, max_age)),
    ]
    return Finding(needs, _some(older), last)


def _last(storage: Storage, runs: pd.DataFrame) -> tuple[datetime | None, dict[str, str], str]:
    """When the last run ended, what it could not read, and which it was."""
    if (run := last_run.read(storage)) is not None:
        said = f"the last run, {run.run_id}, ended at {run.at:%Y-%m-%d %H:%M} UTC"
        return run.at, run.bad_shards, said
    if not len(runs):
        return None, {}, "no run has ended"
    newest = runs.iloc[0]  # of an earlier release
    bad_shards = dict(newest["bad_shards"] or {})
    at = pd.to_datetime(newest["started_at"], utc=True, errors="coerce")
    if pd.isna(at):
        return None, bad_shards, f"the last run, {newest['run_id']}, ended, nobody knows when"
    at += timedelta(seconds=float(newest["seconds"] or 0))
    return at, bad_shards, f"the last run, {newest['run_id']}, ended at {at:%Y-%m-%d %H:%M} UTC"


def _rows(runs: pd.DataFrame) -> list[dict[Any, Any]]:
    return runs.to_dict("records")


def _listed(alarms: Any) -> list[str]:
    """Summaries of the first releases know no alarms."""
    return [] if alarms is None else list(alarms)


def _bad_rows(run: Any) -> Iterator[str]:
    """Whether a run had more rows with an error than its `max_bad_rows` allows."""
    most = run["max_bad_rows"]
    if pd.isna(most):  # of an earlier release: then the exit code says it
        too_many = run["exit_code"] == 3 and not run["bad_shards"]
    else:
        too_many = run["error_rows"] > most * run["rows"]
    if too_many:
        yield f"{run['run_id']}: {run['error_rows']:,.0f} of {run['rows']:,.0f} rows have an error"


def _too_old(ended: datetime | None, hours: float) -> Iterator[str]:
    age = None if ended is None else (datetime.now(UTC) - ended) / timedelta(hours=1)
    if age is None or age > hours:
        ago = "ever" if age is None else f"for {age:,.0f} hours"
        yield f"no run has ended {ago}, --max-age is {hours:g}: is the job still started?"


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST
    return lines if more <= 0 else [*lines[:_MOST], f"and {more:,} more: see fastbert report"]
