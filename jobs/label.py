"""Label Parquet with a FastBERT checkpoint, on Ray.

Reads every shard of the input, writes one Parquet file per slice below OUTPUT/table, and a record
of it below OUTPUT/ledger. Run again, it labels only new and changed shards. Without --speed or
--operating-point it works at the checkpoint's default operating point.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done but with unreadable shards or more bad
rows than allowed, 4 another run holds the output.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import LabelSettings


def run(settings: LabelSettings) -> dict[str, Any]:
    from pipelines.labelling.job import label
    from pipelines.running.executor import RayExecutor

    return label(settings, RayExecutor())


main = command(
    LabelSettings,
    run,
    "  python jobs/label.py --input s3://corpus/docs/ --output s3://corpus/labels \\\n"
    "      --model s3://models/news --speed 0.5 --gpus-per-replica 1 --replicas 1:8",
)

if __name__ == "__main__":
    main()
