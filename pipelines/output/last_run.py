"""The last run that has ended, also if it found nothing to do: one object, written over each time.

Summaries (`ledger/runs/`) are of runs that have changed something. A job that has died, and one
that finds nothing new, differ in this object only.
"""

from dataclasses import asdict, dataclass, field

import msgspec

from pipelines.output.storage import Storage

PATH = "ledger/last_run.json"


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """How it ended."""

    run_id: str
    ended_at: str  # UTC, ISO 8601
    exit_code: int
    #: By URL: why they could not be labelled.
    bad_shards: dict[str, str] = field(default_factory=dict)


def write(storage: Storage, run: LastRun) -> None:
    """Say that it has ended."""
    storage.put(PATH, msgspec.json.format(msgspec.json.encode(asdict(run)), indent=1))


def read(storage: Storage) -> LastRun | None:
    """None where no run of a release that writes it has ended."""
    text = storage.read([PATH]).get(PATH)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=LastRun)
    except msgspec.MsgspecError:
        return None
