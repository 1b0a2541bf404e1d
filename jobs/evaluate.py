"""Accuracy, exit layers, FLOPs and seconds of a checkpoint at several speeds.

Every row runs through all layers once, and then every speed is known; only the realised speed-up
needs the clock.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import EvaluateSettings


def run(settings: EvaluateSettings) -> dict[str, Any]:
    from pipelines.checkpoints.evaluate import evaluate

    return evaluate(settings)


main = command(
    EvaluateSettings,
    run,
    "  python jobs/evaluate.py --model s3://models/news --data s3://corpus/test/ --speeds 0.5",
)

if __name__ == "__main__":
    main()
