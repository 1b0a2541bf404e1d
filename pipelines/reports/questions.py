"""The queries of a report: SQL over the views of `analytics`. All of them use only statistics."""

from pipelines.output.statistics import UNCERTAINTY_BINS
from pipelines.reports.views import slices_of

EXIT_LAYERS = """
    select exit_layer as layer, sum(rows)::bigint as rows,
           round(100.0 * sum(rows) / sum(sum(rows)) over (), 1) as percent,
           round(sum(tokens) / nullif(sum(rows), 0), 1) as mean_tokens,
           round(sum(flops) / nullif(sum(rows), 0) / 1e6, 1) as mflops_per_row,
           coalesce(sum(audit_rows), 0)::bigint as audited,
           round(100.0 * sum(audit_agreements) / nullif(sum(audit_rows), 0), 2)
               as audit_agreement_percent
    from exits where current and exit_layer is not null
    group by exit_layer order by exit_layer
"""

#: Labels not counted by name: the less frequent ones of more than 256 in a slice, and those of
#: statistics without labels. They make percentages refer to all rows.
_OTHER_LABELS = "'(other labels)'"
_LABELLED = f"""
    with named as materialized (
        select label, exit_layer, sum(n) as n
        from (select exit_layer, unnest(map_keys(labels)) as label,
                     unnest(map_values(labels)) as n
              from exits where current)
        group by label, exit_layer
    )
    select label, exit_layer, n, false as other from named
    union all
    select {_OTHER_LABELS}, exit_layer, n, true from (
        select exit_layer, rows - coalesce(n, 0) as n
        from (select exit_layer, sum(rows) as rows from exits
              where current and exit_layer is not null group by exit_layer)
        left join (select exit_layer, sum(n) as n from named group by exit_layer)
             using (exit_layer)
    ) where n > 0 and exists (from named)
"""

LABELS = f"""
    select label, sum(n)::bigint as rows,
           round(100.0 * sum(n) / (select sum(rows) from exits
                                   where current and exit_layer is not null), 1) as percent,
           round(sum(n * exit_layer) / sum(n), 2) as mean_layer
    from ({_LABELLED}) group by label, other order by other, rows desc, label
"""

#: For several questions: where rows were answered, and how often audits agree.
QUESTIONS = """
    with answered as (
        select unnest(map_keys(answers)) as question, unnest(map_values(answers)) as n, exit_layer
        from exits where current and exit_layer is not null
    ), agreed as (
        select question, sum(n) as n
        from (select unnest(map_keys(agreements)) as question,
                     unnest(map_values(agreements)) as n
              from exits where current and exit_layer is not null)
        group by question
    ), audited as (
        select sum(audit_rows) as rows from exits where current and exit_layer is not null
    )
    select question, sum(answered.n)::bigint as rows,
           round(sum(answered.n * exit_layer) / sum(answered.n), 2) as mean_layer,
           any_value(audited.rows)::bigint as audited,
           round(100.0 * coalesce(any_value(agreed.n), 0) / nullif(any_value(audited.rows), 0), 2)
               as audit_agreement_percent
    from answered left join agreed using (question) cross join audited
    group by question order by question
"""

EXITS_BY_LABEL = f"""
    select label, exit_layer as layer, sum(n)::bigint as rows from ({_LABELLED})
    group by label, other, exit_layer
    order by other, sum(sum(n)) over (partition by label, other) desc, label, layer
"""

#: Parts of [0, 1] by layer: the uncertainty of a layer's rows when they left.
UNCERTAINTY = f"""
    select exit_layer as layer, (bin - 1) / {UNCERTAINTY_BINS} as from_uncertainty,
           bin / {UNCERTAINTY_BINS} as to_uncertainty, sum(n)::bigint as rows
    from (select exit_layer, unnest(uncertainties) as n,
                 generate_subscripts(uncertainties, 1) as bin
          from exits where current)
    group by exit_layer, bin having sum(n) > 0 order by exit_layer, bin
"""

#: The most frequent reasons; the ledger counts twenty for each slice, and the rest without names.
ERRORS = """
    with named as (
        select error, sum(n) as rows
        from (select unnest(map_keys(errors)) as error, unnest(map_values(errors)) as n
              from exits where current and exit_layer is null)
        group by error order by rows desc, error limit 20
    )
    select error, rows::bigint as rows from named
    union all
    select '(other reasons)', rows from (
        select (coalesce(sum(rows), 0) - (select coalesce(sum(rows), 0) from named))::bigint as rows
        from exits where current and exit_layer is null
    ) where rows > 0
"""

RUNS = """
    select run_id, started_at, operating_point, left(checkpoint, 8) as checkpoint,
           slices_labelled as slices, rows, error_rows as errors, truncated_rows,
           round(mean_exit_layer, 2) as mean_layer,
           round(full_flops / nullif(flops, 0), 2) as flops_speedup,
           round(rows / nullif(seconds, 0), 1) as rows_per_second,
           coalesce(cardinality(bad_shards), 0) as bad_shards,
           coalesce(len(alarms), 0) as alarms, exit_code
    from runs order by started_at nulls first, run_id
"""

LAST_MODEL = """
    select model, operating_point from runs where model is not null
    order by started_at desc nulls last, run_id desc limit 1
"""

#: Prices for runs with --price-per-hour. Full depth is estimated from its FLOPs; the time spent
#: includes the audit.
COSTS = """
    select run_id, started_at, rows, round(device_seconds, 1) as device_seconds,
           round(1e6 * device_seconds / nullif(rows, 0), 1) as seconds_per_million,
           round(1e6 * device_seconds / nullif(rows, 0) * times_fewer, 1)
               as full_depth_seconds_per_million,
           round(price, 4) as price, round(price_per_million_rows, 4) as price_per_million,
           round(price_per_million_rows * times_fewer, 4) as full_depth_price_per_million
    from (select *, full_flops / nullif(flops + coalesce(audit_flops, 0), 0) as times_fewer
          from runs)
    order by started_at nulls first, run_id
"""

EXITS_BY_RUN = """
    select run_id, any_value(started_at) as started_at, exit_layer as layer,
           sum(exits.rows)::bigint as rows,
           100.0 * sum(exits.rows) / sum(sum(exits.rows)) over (partition by run_id) as percent
    from exits join runs using (run_id) where exit_layer is not null
    group by run_id, exit_layer order by any_value(started_at) nulls first, run_id, exit_layer
"""

LABELS_BY_RUN = f"""
    with named as (
        select run_id, started_at, unnest(map_keys(labels)) as label,
               unnest(map_values(labels)) as rows
        from runs
    )
    from named union all
    select run_id, any_value(started_at), {_OTHER_LABELS}, n from (
        select run_id, started_at,
               (rows - coalesce(error_rows, 0) - list_sum(map_values(labels)))::bigint as n
        from runs where cardinality(labels) > 0
    ) where n > 0 group by run_id, n
    order by started_at nulls first, run_id, label = {_OTHER_LABELS}, rows desc
"""

_AUDIT = """
    run_id, started_at, audit_rows as audited,
    round(100 * audit_agreement, 3) as agreement_percent,
    round(100 * audit_interval[1], 3) as lower_percent,
    round(100 * audit_interval[2], 3) as upper_percent,
    100 * promised_agreement as promised_percent
"""

AUDITS = f"""
    select {_AUDIT},
           round(exit_drift, 4) as drift, exit_drift_p as drift_p
    from runs where finished and (audit_rows > 0 or exit_drift is not null)
    order by started_at nulls first, run_id
"""

#: The key of a recipe. Temperatures, which earlier runs lack, follow from thresholds.
_RECIPE = "runs.checkpoint, criterion, thresholds, within, questions"

#: Audited runs, each with the sums of its recipe until then.
AUDITED = f"""
    select {_AUDIT},
           sum(audit_rows) over so_far as all_audited,
           sum(round(audit_agreement * audit_rows)) over so_far as all_agreed
    from runs where finished and audit_rows > 0 and audit_agreement is not null
    window so_far as (
        partition by {_RECIPE} order by started_at, run_id
    )
    order by started_at nulls first, run_id
"""

#: For each checkpoint at each point: its rows in the table, and the results of all of its audits.
RECIPES = f"""
    with sums as (
        select run_id, sum(rows) filter (current) as held, sum(audit_rows) as audited,
               sum(audit_agreements) as agreed
        from exits where exit_layer is not null group by run_id
    )
    select left(checkpoint, 8) as checkpoint,
           max_by(operating_point, started_at) as operating_point, count(*) as runs,
           max(started_at) as last_used,
           coalesce(sum(held), 0)::bigint as rows,
           round(sum(full_flops) / nullif(sum(flops), 0), 2) as flops_speedup,
           100 * max_by(promised_agreement, started_at) as promised_percent,
           count(*) filter (audited > 0) as audited_runs,
           coalesce(sum(audited), 0)::bigint as audited, coalesce(sum(agreed), 0)::bigint as agreed
    from runs left join sums using (run_id) where thresholds is not null
    group by {_RECIPE}
    order by last_used nulls first, checkpoint
"""

DRIFT = f"""
    select run_id, started_at, drift, drift_p from ({AUDITS}) where drift is not null
    order by started_at nulls first, run_id
"""

TIMES = """
    select run_id, sum(rows)::bigint as rows, round(sum(read_seconds), 1) as read_seconds,
           round(sum(tokenize_seconds), 1) as tokenize_seconds,
           round(sum(device_seconds), 1) as device_seconds,
           round(sum(commit_seconds), 1) as commit_seconds,
           round(sum(rows) / nullif(sum(device_seconds), 0)) as rows_per_device_second
    from slices group by run_id order by min(committed_at), run_id
"""

STEPS = f"""
    select run_id, started_at, replace(step, '_seconds', '') as step, value
    from (unpivot ({TIMES}) on columns('_seconds$') into name step value value)
    join (select run_id, started_at from runs) using (run_id)
"""

#: Selected before the sums: a slice has up to 128 exits, and rows with errors.
SLOWEST_SLICES = f"""
    with slowest as (
        select distinct slice_id from (
            select slice_id from exits where current
            order by slice_read_seconds + slice_tokenize_seconds + slice_device_seconds
                     + slice_commit_seconds desc limit 10 * 129
        )
    )
    select shard, first_row, rows, round(mean_exit_layer, 2) as mean_layer,
           round(tokens / nullif(rows, 0), 1) as mean_tokens,
           round(read_seconds + tokenize_seconds, 2) as host_seconds,
           round(device_seconds, 2) as device_seconds, round(commit_seconds, 2) as commit_seconds,
           retries, quarantined, run_id
    from ({slices_of("exits semi join slowest using (slice_id)")})
    order by read_seconds + tokenize_seconds + device_seconds + commit_seconds desc limit 10
"""


def _newest(found: str, name: str) -> str:
    """Items listed by runs, the newest first; the last row has the number of further ones."""
    return f"""
        with found as (
            select run_id, {found} from runs order by started_at desc nulls last, run_id, {name}
        )
        from (from found limit {_MOST}) union all by name
        select '(others)' as run_id, format('{{}} more', n) as {name}
        from (select count(*) - {_MOST} as n from found) where n > 0
    """


_MOST = 50
ALARMS = _newest("unnest(alarms) as alarm", "alarm")
BAD_SHARDS = _newest(
    "unnest(map_keys(bad_shards)) as shard, unnest(map_values(bad_shards)) as reason", "shard"
)
