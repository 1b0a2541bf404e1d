"""Turn a checkpoint of the FastBERT authors' code into one of ours.

It is a bare state dict, which says nothing of labels and vocabulary: they are given beside it.
Logits and exit layers stay what they were.
"""

from typing import Any

from jobs.options import command
from pipelines.settings import ConvertSettings


def run(settings: ConvertSettings) -> dict[str, Any]:
    from pipelines.checkpoints.convert import convert

    return convert(settings)


main = command(
    ConvertSettings,
    run,
    "  python jobs/convert.py --checkpoint fastbert.bin --vocabulary google_zh_vocab.txt \\\n"
    "      --label negative --label positive --output models/reviews",
)

if __name__ == "__main__":
    main()
