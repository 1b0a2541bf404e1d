"""What a labelled output holds and what it cost: exit layers, labels and runs.

With --sql, any query over the views rows (all columns of table/), slices (one row per file of the
table), exits (statistics per commit and exit layer) and runs.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import ReportSettings


def run(settings: ReportSettings) -> dict[str, Any]:
    from pipelines.reports.job import report

    return report(settings)


main = command(
    ReportSettings,
    run,
    "  python jobs/report.py --output s3://corpus/labels \\\n"
    '      --sql "select label, avg(exit_layer) from rows group by label"',
)

if __name__ == "__main__":
    main()
