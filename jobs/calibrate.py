"""Find thresholds that keep a promise, and store them in the checkpoint as an operating point.

The promise is about labels: at most a share of them may differ from full depth's
(--max-disagreement; needs no labels), or be wrong where full depth is right (--max-accuracy-loss;
needs labels). --speedup asks for an amount of work instead, and says what it costs.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import CalibrateSettings


def run(settings: CalibrateSettings) -> dict[str, Any]:
    from pipelines.checkpoints.calibrate import calibrate

    return calibrate(settings)


main = command(
    CalibrateSettings,
    run,
    "  python jobs/calibrate.py --model s3://models/news --corpus s3://corpus/2026-11/ \\\n"
    "      --max-disagreement 0.01",
)

if __name__ == "__main__":
    main()
