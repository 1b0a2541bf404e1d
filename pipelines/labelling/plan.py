"""The plan: the difference between the input's shards and the ledger.

Shards with complete records are not opened. So a rerun with nothing new reads no data. Commits stay
tables: only slices to label become objects.
"""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fastbert.errors import InputError
from fastbert.filesystem import redacted
from pipelines.input.columns import InputColumns
from pipelines.input.formats.format import Scan, Start
from pipelines.input.scans import Scans
from pipelines.input.shards import Shard
from pipelines.input.slices import Slice
from pipelines.output.committed import PATH, Committed
from pipelines.output.identity import MAY_CHANGE, Identity
from pipelines.output.record import Record, table_path
from pipelines.output.sets import Mask, Sets, chosen
from pipelines.settings import OnChange


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do. Commits are rows of `Committed.commits`."""

    shards: int
    todo: list[Slice]
    up_to_date: pa.Table
    #: Those of them whose record must still be written.
    adopted: list[Record]
    #: Other commits whose rows stay: of the last good version of unreadable shards, and of shards
    #: that are no longer in the input, unless they are pruned.
    spared: pa.Table
    #: Number of these from shards that are no longer in the input.
    gone: int
    #: Commits whose rows are removed: no new slice overwrites their files.
    removed: pa.Table
    #: Commits whose files will be overwritten. Their records are removed first: if the run were
    #: killed between rows and record, the old record would count for the new rows.
    replaced: pa.Table
    #: Files of labelled rows without a record that no new slice overwrites. Files that this run
    #: would write differently are removed: their rows would exist twice. Files of unreadable or
    #: missing shards stay, unless pruned: they may hold the only labels.
    swept: list[str]
    left: list[str]
    #: url -> why it cannot be labelled.
    bad_shards: dict[str, str]
    #: The precision of this labelling's last commit; None for a new output.
    precision: str | None
    #: See `InputColumns`.
    fields: pa.Schema

    @property
    def rows(self) -> int:
        """Rows to label."""
        return sum(piece.rows for piece in self.todo)

    @property
    def changes(self) -> bool:
        """Whether the run has anything to do."""
        return bool(self.todo or self.adopted or len(self.removed) or self.swept)


#: The commits of the input's shards: whether they come from another place, whether this run keeps
#: their recipe, and whether they `fit`: need not be labelled again.
_JUDGED = """
    create temp table judged as
    select commits.n, place, first_row, rows, shard_rows, source <> url as moved,
           list_contains($kept, recipe) as kept,
           list_contains($kept, recipe)
           and (version = current_version or version = coalesce(formerly, current_version))
           and not ($retry_quarantined and quarantined)
           and not ($retry_errors and model_errors > 0)
           and coalesce(precision = $precision, true) as fits
    from commits join shards using (shard)
"""
#: The shards with commits that fit, and whether these are complete: all rows, and none twice.
_KNOWN = """
    select place, min_by(shard_rows, first_row) as shard_rows,
           bool_and(first_row >= before) and sum(rows) = max(shard_rows)
           and min(shard_rows) = max(shard_rows) as complete
    from (select *, coalesce(max(first_row + rows) over (
              partition by place order by first_row rows between unbounded preceding and 1 preceding
          ), 0) as before from judged where fits)
    group by place
"""
_INCOMPLETE = """
    select n, place, first_row, rows from judged
    where fits and place in (select place from known where not complete) order by first_row
"""


def make_plan(
    shards: list[Shard],
    output: Committed,
    identity: Identity,
    columns: InputColumns,
    slice_rows: int,
    on_change: OnChange,
    retry_quarantined: bool = False,
    precision: str | None = None,
    retry_errors: bool = False,
    prune: bool = False,
    scans: Scans | None = None,
) -> Plan:
    """Compare shards with commits. `precision` is the requested one, if any.

    Commits of other identities stay unless `on_change` is "relabel"; with "refuse" the last one
    must be of this identity. Raises InputError if it is not; if commits that may not be replaced
    have other columns or lengths, another place or a precision other than requested; and if no
    shard can be labelled.
    """
    relabel, scans = on_change == "relabel", scans or Scans()
    last = output.precision(identity)
    if last and precision and last != precision and not relabel:
        raise InputError(
            f"the output was labelled in {last}, --precision is {precision}; leave it out to "
            "continue as before, or pass --relabel to label everything again"
        )
    commits, new = output.commits, ~output.recorded
    kept = [
        text
        for text, recipe in output.recipes.items()
        if (not identity.differences(recipe) if relabel else identity.goes_with(recipe))
    ]
    before = output.recipe()
    if on_change == "refuse" and before is not None:
        _check_identity(before, identity)
    with Sets(commits=commits, shards=_table(shards)) as sets:
        sets.run(
            _JUDGED,
            kept=kept,
            retry_quarantined=retry_quarantined,
            retry_errors=retry_errors,
            precision=precision if relabel else None,
        )
        ours = sets.mask("commits", "from judged")
        fits = sets.mask("commits", "from judged where fits")
        if not relabel:
            _check(sets, shards, identity, kept, any_fits=bool(fits.any()))
        rows, done = _known(sets, fits)
        scanned, bad = _scan(shards, columns, scans, rows, done)
        if shards and not rows:
            url, reason = next(iter(bad.values()))
            raise InputError(f"no shard can be labelled; {url}: {reason}")
        todo = [
            piece
            for place in sorted(done)
            for piece in _gaps(
                shards[place], rows[place], done[place], slice_rows, scanned.get(place)
            )
        ]
        spoiled = sets.mask("commits", "from judged where list_contains($bad, place)", bad=[*bad])
        sets.add("todo", pa.table({"path": pa.array([piece.path for piece in todo], pa.string())}))
        again = sets.mask("commits", f"select n from commits semi join todo on {PATH} = path")
    outdated, vanished = ours & ~fits & ~new, ~ours & ~new
    goes = vanished & prune
    adopted = chosen(commits, fits & new).select(["shard", "first_row"]).to_pylist()
    records = [output.adopted[table_path(**place)] for place in adopted]
    written = {piece.path for piece in todo} | {record.path for record in records}
    stray = {path: name for path, name in output.stray.items() if path not in written}
    seen = {shard.name for shard in shards}
    swept = {shards[place].name for place in rows} | ({*stray.values()} - seen if prune else set())
    return Plan(
        shards=len(shards),
        todo=todo,
        up_to_date=chosen(commits, fits),
        adopted=records,
        # The first are of the last good version of their shard.
        spared=chosen(commits, outdated & spoiled | vanished & ~goes),
        gone=int((vanished & ~goes).sum()),
        removed=chosen(commits, outdated & ~spoiled & ~again | goes),
        replaced=chosen(commits, outdated & ~spoiled & again),
        swept=[path for path, name in stray.items() if name in swept],
        left=[path for path, name in stray.items() if name not in swept],
        bad_shards=dict(bad.values()),
        precision=last,
        fields=scans.fields(),
    )


def _table(shards: list[Shard]) -> pa.Table:
    """The shards that can have commits: not those whose names are not UTF-8."""
    some = [
        (place, shard)
        for place, shard in enumerate(shards)
        if shard.name.encode(errors="ignore").decode() == shard.name
    ]
    text = pa.string()
    return pa.table(
        {
            "place": pa.array([place for place, _ in some], pa.int64()),
            "shard": pa.array([shard.name for _, shard in some], text),
            "url": pa.array([redacted(shard.url) for _, shard in some], text),
            "current_version": pa.array([shard.version for _, shard in some], text),
            "formerly": pa.array([shard.formerly for _, shard in some], text),
        }
    )


#: The first commit, in the order of the input, that this run may not replace; and one of a shard
#: outside the input that does not go with this run.
_FOREIGN = """
    select place, source, recipe, moved from judged join commits using (n)
    where moved or not kept order by place, judged.first_row limit 1
"""
_FOREIGN_AND_GONE = """
    select recipe from commits anti join judged using (n)
    where not list_contains($kept, recipe) order by n limit 1
"""


def _check(
    sets: Sets, shards: list[Shard], identity: Identity, kept: list[str], any_fits: bool
) -> None:
    """Raises InputError if commits would be replaced that must not be."""
    for found in sets.table(_FOREIGN).to_pylist():
        if found["moved"]:
            shard = shards[found["place"]]
            raise InputError(
                f"the output has labels of {found['source']} as '{shard.name}', which would be "
                f"replaced by those of {redacted(shard.url)}; pass the folder above both as "
                "--input, another --output, or --relabel if the corpus has moved"
            )
        _check_identity(json.loads(found["recipe"]), identity)
    if not any_fits:
        for found in sets.table(_FOREIGN_AND_GONE, kept=kept).to_pylist():
            _check_identity(json.loads(found["recipe"]), identity)


def _check_identity(recipe: dict[str, Any], identity: Identity) -> None:
    """Raises InputError if they differ, with the options to pass."""
    differences = identity.differences(recipe)
    if not differences:
        return
    grave = (key for key in differences if key not in MAY_CHANGE)
    key = next(grave, next(iter(differences)))
    before, now = differences[key]
    ways = ["--relabel to label everything again", "or another --output"]
    if identity.goes_with(recipe):
        ways.insert(0, "--on-change new to label new and changed shards so, and keep the others")
    where = {"criterion", "thresholds", "temperatures"}
    if differences.keys() <= where and (speed := _speed(recipe)) is not None:
        ways.insert(0, f"--speed {speed} to continue as before")
    raise InputError(
        f"the output was labelled with {key} {before}, this run has {now}; pass {', '.join(ways)}"
    )


def _speed(recipe: dict[str, Any]) -> Any:
    """The --speed of this recipe; None if there is none."""
    thresholds = recipe.get("thresholds")
    if recipe.get("criterion") != "entropy" or not isinstance(thresholds, list) or not thresholds:
        return None
    before = (recipe.get("exit_depths") or [1])[0] == 0  # an exit before the first layer
    first, later = thresholds[0], thresholds[1:] if before else thresholds
    if later != later[:1] * len(later) or not later or (before and first not in (0, later[0])):
        return None
    return f"{later[0]}{' --exits 0-' if before and first else ''}"


def _known(sets: Sets, fits: Mask) -> tuple[dict[int, int], dict[int, list[range]]]:
    """For shards with commits that fit, by place: their number of rows and, if incomplete, which
    rows are done. Commits that overlap an earlier one do not fit."""
    known = sets.table(_KNOWN)
    sets.add("known", known)
    rows = dict(zip(known["place"].to_pylist(), known["shard_rows"].to_pylist(), strict=True))
    done: dict[int, list[range]] = {}
    for each in sets.table(_INCOMPLETE).to_pylist():
        mine, first = done.setdefault(each["place"], []), each["first_row"]
        if mine and first < mine[-1].stop:
            fits[each["n"]] = False
        else:
            mine.append(range(first, first + each["rows"]))
    return rows, done


def _scan(
    shards: list[Shard],
    columns: InputColumns,
    scans: Scans,
    rows: dict[int, int],
    done: dict[int, list[range]],
) -> tuple[dict[int, Scan], dict[int, tuple[str, str]]]:
    """Open the shards that no commit fits, and add what they have, and those of which only a scan
    tells where rows begin. Returns, by place, what was found where reading can begin in several
    places, and URL and reason of those that cannot be labelled."""
    known = {place for place in rows if place not in done or not shards[place].format.scanned}
    new = [place for place in range(len(shards)) if place not in known]
    found: dict[int, Scan] = {}
    bad: dict[int, tuple[str, str]] = {}
    for place, scan in zip(new, scans.each([shards[k] for k in new], columns), strict=True):
        if isinstance(scan, str):
            bad[place] = redacted(shards[place].url), scan
            rows.pop(place, None)
            done.pop(place, None)
        else:
            if scan.starts:
                found[place] = scan  # else only its schema is left, and there may be many
            rows.setdefault(place, scan.rows)
            done.setdefault(place, [])
    return found, bad


def _gaps(
    shard: Shard, rows: int, done: list[range], slice_rows: int, scan: Scan | None
) -> list[Slice]:
    """The row ranges of a shard that no record covers, cut into slices.

    A shard without rows gets one empty slice, so that the next run does not open it again.
    """
    if rows == 0 and not done:
        return [Slice(shard, 0, 0, 0)]
    begin = scan.start if scan else lambda row: Start()
    starts = [0, *(each.stop for each in done)]  # in order
    stops = [*(each.start for each in done), rows]
    return [
        Slice(shard, rows, first, min(slice_rows, stop - first), begin(first))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(start, stop, slice_rows)
    ]
