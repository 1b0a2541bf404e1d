"""Does an output need a person? `fastbert report --check`, for schedulers."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from pipelines.output import last_run
from pipelines.output.storage import Storage
from pipelines.reports.analytics import Analytics

#: The exit code of a check with findings.
NEEDS_A_PERSON = 5
#: Most lines of one kind, such as unreadable shards.
_MOST = 20

#: Newest first.
_SUMMARIES = "select * from summaries order by started_at desc nulls last, run_id desc"


@dataclass(frozen=True)
class Finding:
    """The result of a check, one line for each finding."""

    needs: list[str]  # findings for a person
    older: list[str]  # alarms of earlier runs, which are in the report
    last: str  # the last run, and when it ended

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return NEEDS_A_PERSON if self.needs else 0

    def lines(self) -> list[str]:
        """The lines to print."""
        needs = [f"ALARM: {line}" for line in self.needs]
        older = [f"earlier: {line}" for line in self.older]
        return [*needs, *older, f"{self.last}; {len(self.needs) or 'nothing'} to look at"]


def check(found: Analytics, max_age: float | None) -> Finding:
    """Check the finished runs: alarms and bad rows of the last one that labelled something, and
    shards that the last one of all could not read. With `max_age`, in hours, an older last run also
    needs a person."""
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
    """When the last run ended, what it could not read, and a line about it."""
    if (run := last_run.read(storage)) is not None:
        said = f"the last run, {run.run_id}, ended at {run.at:%Y-%m-%d %H:%M} UTC"
        return run.at, run.bad_shards, said
    if not len(runs):
        return None, {}, "no run has ended"
    newest = runs.iloc[0]  # of an earlier release
    bad_shards = dict(newest["bad_shards"] or {})
    at = pd.to_datetime(newest["started_at"], utc=True, errors="coerce")
    if pd.isna(at):
        return None, bad_shards, f"the last run, {newest['run_id']}, ended at an unknown time"
    at += timedelta(seconds=float(newest["seconds"] or 0))
    return at, bad_shards, f"the last run, {newest['run_id']}, ended at {at:%Y-%m-%d %H:%M} UTC"


def _rows(runs: pd.DataFrame) -> list[dict[Any, Any]]:
    return runs.to_dict("records")


def _listed(alarms: Any) -> list[str]:
    """Summaries of the first releases have no alarms."""
    return [] if alarms is None else list(alarms)


def _bad_rows(run: Any) -> Iterator[str]:
    """Whether a run had more rows with an error than its `max_bad_rows` allows."""
    most = run["max_bad_rows"]
    if pd.isna(most):  # of an earlier release: judge by the exit code
        too_many = run["exit_code"] == 3 and not run["bad_shards"]
    else:
        too_many = run["error_rows"] > most * run["rows"]
    if too_many:
        yield f"{run['run_id']}: {run['error_rows']:,.0f} of {run['rows']:,.0f} rows have an error"


def _too_old(ended: datetime | None, hours: float) -> Iterator[str]:
    age = None if ended is None else (datetime.now(UTC) - ended) / timedelta(hours=1)
    if age is None or age > hours:
        ago = "ever" if age is None else f"for {age:,.0f} hours"
        yield f"no run has ended {ago}, --max-age is {hours:g}: is the job still scheduled?"


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST
    return lines if more <= 0 else [*lines[:_MOST], f"and {more:,} more: see fastbert report"]
