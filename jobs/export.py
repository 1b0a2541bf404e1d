"""Bring a Delta table up to date with a labelled output, one transaction per labelling run.

Adds the rows of every run that has ended, and removes those that it replaced or that are no longer
in the output. Run again, it does nothing; killed, it goes on where it was.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import ExportSettings


def run(settings: ExportSettings) -> dict[str, Any]:
    from pipelines.export.job import export

    return export(settings)


main = command(
    ExportSettings,
    run,
    "  python jobs/export.py --output s3://corpus/labels --delta s3://lake/labels",
)

if __name__ == "__main__":
    main()
