"""What a labelled output holds and what it cost: exit layers, labels and runs.

With --sql, any query over the views labels (all columns of table/), exits (statistics per slice
and exit layer), slices (the ledger) and runs.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import ReportSettings


def run(settings: ReportSettings) -> dict[str, Any]:
    from pipelines.report import report

    return report(settings)


main = command(
    ReportSettings,
    run,
    "  python jobs/report.py --output s3://corpus/labels \\\n"
    '      --sql "select label, avg(exit_layer) from labels group by label"',
)

if __name__ == "__main__":
    main()
