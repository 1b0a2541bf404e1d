"""Give an existing Hugging Face classifier early exits, without any labels.

The classifier itself is not changed: at full depth the checkpoint answers as it does.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import DistilSettings


def run(settings: DistilSettings) -> dict[str, Any]:
    from pipelines.checkpoints.distill import distill

    return distill(settings)


main = command(
    DistilSettings,
    run,
    "  python jobs/distill.py --teacher textattack/bert-base-uncased-ag-news \\\n"
    "      --corpus s3://corpus/docs/ --output s3://models/news",
)

if __name__ == "__main__":
    main()
