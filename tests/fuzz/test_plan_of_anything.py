"""Random histories: the plan covers every row once."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.records import holding, identity, paths, record
from support.records import places as places_of

from fastbert.errors import InputError
from fuzz.properties import examples, plan_of
from pipelines.input.columns import InputColumns
from pipelines.input.shards import Shard
from pipelines.labelling.plan import Plan
from pipelines.output.committed import Committed
from pipelines.output.record import Record, table_path

RECIPES = [identity().recipe, identity(checkpoint="y").recipe]
NAMES = ["a", "b", "dt=1/a", "gone"]


def mostly(usual: Any, unusual: Any) -> st.SearchStrategy[Any]:
    """The usual value three times of four."""
    return st.sampled_from([usual, usual, usual, unusual])


versions = mostly("v1", "v2")
shard_rows = st.one_of(st.integers(20, 40), st.integers(20, 40), st.integers(0, 40), st.none())
shards_strategy = st.dictionaries(
    st.sampled_from(NAMES[:-1]), st.tuples(versions, shard_rows), min_size=1
)
places = st.tuples(st.sampled_from(NAMES), st.integers(0, 45))
commits = st.lists(
    st.tuples(
        places,
        st.integers(0, 20),
        versions,
        mostly(RECIPES[0], RECIPES[1]),
        mostly(False, True),
    ),
    min_size=3,
    max_size=20,
    unique_by=lambda commit: commit[0],  # a slice has one record
)


def url(name: str) -> str:
    return f"memory://in/{name}.parquet"


def planned(
    shards, commits, strays, slice_rows, on_change, retry, prune
) -> tuple[Plan, list[Record], Committed]:
    """The plan of a random history; every record lies inside what its version of the shard had."""
    columns, records = InputColumns(), []
    for (name, first), rows, version, recipe, quarantined in commits:
        total = shards[name][1] if name in shards and shards[name][0] == version else 60
        if total is None or first >= max(total, 1) or (total and not rows):
            continue  # no run has made such a record
        records.append(
            record(
                name,
                first,
                min(rows, total - first),
                source=url(name),
                version=version,
                shard_rows=total,
                recipe=recipe,
                quarantined=quarantined,
            )
        )
    held = {record.path for record in records}
    stray = {table_path(*place): place[0] for place in strays if table_path(*place) not in held}
    found = [Shard(url(name), name, version) for name, (version, _) in sorted(shards.items())]
    output = holding(records, stray)
    rows = {name: rows for name, (_, rows) in shards.items()}
    plan = plan_of(
        rows, found, output, identity(), columns, slice_rows, on_change, retry, None, False, prune
    )
    return plan, records, output


@given(
    shards_strategy,
    commits,
    st.sets(places, max_size=4),
    st.integers(1, 13),
    st.sampled_from(["new", "relabel"]),
    st.booleans(),
    st.booleans(),
)
def plan_covers_every_row_once(shards, commits, strays, slice_rows, on_change, retry, prune):
    history = shards, commits, strays, slice_rows, on_change, retry, prune
    try:
        plan, records, output = planned(*history)
    except InputError:
        assert not any(rows is not None for _, rows in shards.values())
        return
    lists = (plan.up_to_date, plan.removed, plan.replaced, plan.spared)
    together = [place for some in lists for place in places_of(some)]
    assert sorted(together) == sorted((r.shard, r.first_row) for r in records)  # each in one list
    by_path = {r.path: r for r in records}
    up_to_date = [by_path[path] for path in paths(plan.up_to_date)]
    spared = [by_path[path] for path in paths(plan.spared)]
    for up in up_to_date:
        assert up.version == shards[up.shard][0]
        assert up.recipe in (RECIPES if on_change == "new" else RECIPES[:1])
        assert not (retry and up.quarantined)
    kept = {r.path for r in up_to_date + spared} | set(plan.left)
    removed = set(paths(plan.removed)) | set(plan.swept)
    # Rows of shards that this run does not replace stay, record or no record, unless it prunes.
    assert prune or all(output.stray[path] in shards for path in plan.swept)
    spoiled = {name for name in shards if url(name) in plan.bad_shards}
    gone = ({r.shard for r in records} | {*output.stray.values()}) - shards.keys()
    stays = spoiled if prune else spoiled | gone
    assert {output.stray[path] for path in plan.left} | {r.shard for r in spared} <= stays
    todo = {piece.path for piece in plan.todo}
    assert len(todo) == len(plan.todo)
    assert not kept & removed
    assert not todo & (kept | removed)
    assert set(paths(plan.replaced)) <= todo
    assert all(piece.rows <= slice_rows for piece in plan.todo)
    for name, (version, rows) in shards.items():
        mine = [(r.first_row, r.rows) for r in up_to_date if r.shard == name]
        ours = [(p.first_row, p.rows) for p in plan.todo if p.shard.name == name]
        if url(name) in plan.bad_shards:
            assert not ours
            continue
        assert rows is not None or mine  # complete shards are not opened
        covered = sorted(i for first, n in mine + ours for i in range(first, first + n))
        total = rows if rows is not None else plan_rows(plan, name)
        assert covered == list(range(total)), f"{name} {version}"
        assert total or len(mine + ours) == 1
        # Nothing else may be in the table under the shard's name.
        spare = {r.path for r in records if r.shard == name} | {
            path for path, shard in output.stray.items() if shard == name
        }
        assert spare - kept - removed - todo == set()


def plan_rows(plan: Plan, name: str) -> int:
    return next(r["shard_rows"] for r in plan.up_to_date.to_pylist() if r["shard"] == name)


def test_the_plan_covers_every_row_once(repeat):
    rounds = repeat("plan", examples(150)(plan_covers_every_row_once))
    print(f"plan: {rounds} rounds of 150 examples")
