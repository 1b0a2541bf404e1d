"""The last run that ended, also if it found nothing to do: one object, which is overwritten.

Summaries (`ledger/runs/`) are of runs that changed something. Only this object distinguishes a dead
job from one that finds nothing new.
"""

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import msgspec

from pipelines.output.storage import Storage

PATH = "ledger/last_run.json"
#: An unchanged state is not written again within this time.
_KNOWN_FOR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """How it ended."""

    run_id: str
    ended_at: str  # UTC, ISO 8601
    exit_code: int
    #: By URL: why each could not be labelled.
    bad_shards: dict[str, str] = field(default_factory=dict)

    @property
    def at(self) -> datetime:
        """When it ended."""
        return datetime.fromisoformat(self.ended_at)


def write(storage: Storage, run: LastRun) -> None:
    """Record that it ended, except if the same was recorded within the last hour."""
    known = read(storage)
    same = known and (known.exit_code, known.bad_shards) == (run.exit_code, run.bad_shards)
    if known and same and run.at - known.at < _KNOWN_FOR:
        return
    storage.put(PATH, msgspec.json.format(msgspec.json.encode(asdict(run)), indent=1))


def read(storage: Storage) -> LastRun | None:
    """The object; None if no run of a release that writes it has ended. Its time may be up to an
    hour before the last run's end."""
    text = storage.read([PATH]).get(PATH)
    try:
        run = msgspec.json.decode(text or b"", type=LastRun)
        return run if run.at.tzinfo else None
    except ValueError:  # missing or damaged
        return None
