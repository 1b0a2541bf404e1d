"""The views of `analytics`, except `rows`, as SQL over statistics and summaries."""

import pyarrow as pa

from fastbert.exits.question import ANSWERS, Kind, prefix
from pipelines.labelling import summary
from pipelines.output.committed import PATH
from pipelines.output.history import SLICE_ID
from pipelines.output.statistics import PER_SLICE

#: Statistics of all commits ever made, with the paths of their rows.
HISTORY = f"""
    create or replace view history as
    select * replace (try_cast(committed_at as timestamp) as committed_at),
           {PATH} as path from ({{sources}})
"""

#: The commits whose rows the table holds now, by the ledger.
CURRENT = f"""
    create or replace table newest as select n, {SLICE_ID} as slice_id, run_id from commits
"""
#: For files without a record, their last run by the statistics. Runs are ordered by their drivers'
#: clocks, because clocks of nodes may differ.
STRAY = """
    insert into newest
    with begun as (
        select run_id, coalesce(try_cast(any_value(summaries.started_at) as timestamp),
                                min(committed_at)) as begun_at
        from history left join summaries using (run_id) group by run_id
    )
    select null, slice_id, max_by(run_id, row(begun_at, committed_at))
    from history semi join stray using (path) join begun using (run_id) group by slice_id
"""
#: Which slices of a run have statistics, and which of them are current.
MARKS = """
    create or replace table marks as
    from (select distinct run_id, slice_id, true as known from history)
    full join (select *, true as current from newest) using (run_id, slice_id)
"""
#: Commits without statistics.
MISSING = "select n from marks where known is null order by n"

#: For speed: in most runs all slices are current, or none, so only the run's name is looked up.
EXITS = """
    create or replace table whole as
    select run_id from marks group by run_id having bool_and(current is true);
    create or replace table partly as
    select run_id, slice_id from marks anti join whole using (run_id) where current;
    create or replace view exits as
    select history.*, whole.run_id is not null or partly.run_id is not null as current
    from history left join whole using (run_id) left join partly using (run_id, slice_id);
    drop table marks;
    drop table newest;
"""

#: Sums of a run's slices, and their types.
_TYPES = {pa.decimal128(38): "decimal(38, 0)", pa.float64(): "double", pa.int64(): "bigint"}
_SUMMED = {m: _TYPES[summary.RUNS.field(m.total).type] for m in PER_SLICE if m.total}


def slices_of(exits: str) -> str:
    """The slices that the table holds now, summed from rows of `exits`."""
    return f"""
    select slice_id, any_value(run_id) as run_id, any_value(shard) as shard,
           any_value(first_row) as first_row, any_value(slice_rows) as rows,
           coalesce(sum(rows) filter (exit_layer is null), 0)::bigint as error_rows,
           sum(tokens)::bigint as tokens,
           list(rows order by exit_layer) filter (exit_layer is not null) as exits,
           sum(exit_layer * rows) / nullif(sum(rows) filter (exit_layer is not null), 0)
               as mean_exit_layer,
           sum(flops)::bigint as flops,
           {", ".join(f"any_value({m.column}) as {m.name}" for m in PER_SLICE)},
           any_value(committed_at) as committed_at, any_value(path) as path
    from {exits} where current group by slice_id
"""


SLICES = f"create or replace view slices as {slices_of('exits')}"

#: The recipes of runs, from their commits.
RECIPES = """
    create or replace table recipes as
    select run_id, any_value(recipe) as recipe from commits group by run_id
"""

_NUMBERS = ("thresholds", "temperatures", "within")
#: Runs in progress, or killed, have at most statistics.
RUNS = f"""
    create or replace view runs as
    select * replace (try_cast(started_at as timestamp) as started_at,
                      try_cast(questions as json)->>'$' as questions), true as finished
    from summaries
    union all by name
    select run_id, min(committed_at) as started_at, false as finished,
           any_value(recipe->>'checkpoint') as checkpoint,
           any_value(recipe->>'criterion') as criterion,
           {", ".join(f"any_value((recipe->'{key}')::double[]) as {key}" for key in _NUMBERS)},
           any_value(recipe->>'questions') as questions,
           count(*) as slices_labelled, sum(rows)::bigint as rows,
           sum(error_rows)::bigint as error_rows, sum(tokens)::bigint as tokens,
           sum(flops)::decimal(38, 0) as flops,
           sum(layers) / nullif(sum(rows - error_rows), 0) as mean_exit_layer,
           {", ".join(f"sum({m.name})::{kind} as {m.total}" for m, kind in _SUMMED.items())}
    from (
        select run_id, slice_id, min(committed_at) as committed_at, sum(rows) as rows,
               coalesce(sum(rows) filter (exit_layer is null), 0) as error_rows,
               sum(tokens) as tokens, sum(flops) as flops, sum(exit_layer * rows) as layers,
               {", ".join(f"any_value({m.column}) as {m.name}" for m in _SUMMED)}
        from exits anti join summaries using (run_id) group by run_id, slice_id
    ) left join (select run_id, recipe::json as recipe from recipes) using (run_id)
    group by run_id
"""


def answer(question: str, kind: Kind) -> str:
    """SQL for the columns of an answer: as text, and its probability."""
    main, *more = (f'"{prefix(question)}{name}"' for name in ANSWERS[kind].names)
    label, score = f'"{prefix(question)}label"', f'"{prefix(question)}score"'
    if kind == "score":
        return f"printf('%.4g', {main}::double) as {label}, null::float as {score}"
    if kind == "single-label":
        return f"{main} as {label}, round({more[0]}, 4) as {score}"
    return (
        f"coalesce(nullif(array_to_string({main}, ', '), ''), '(none)') as {label}, "
        f"round({more[0]}[1], 4) as {score}"
    )
