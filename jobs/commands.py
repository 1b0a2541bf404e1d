"""Every command: what it is asked, what it runs, what its help says.

What a command runs is imported when it is called: help needs neither torch nor Ray.
"""

from dataclasses import dataclass
from typing import Any

from pipelines import settings
from pipelines.checkpoints import settings as checkpoints


@dataclass(frozen=True)
class Entry:
    """One command."""

    #: A dataclass of `pipelines.settings`, whose fields are the options.
    settings: type[Any]
    #: "module:function"; the function gets the settings and returns the summary.
    runs: str
    #: The first sentence stands for it in lists.
    says: str
    example: str


COMMANDS = {
    "train": Entry(
        checkpoints.TrainSettings,
        "pipelines.checkpoints.train:train",
        """Fine-tune a backbone on labels, then self-distil a branch on every layer.

        Rows that are held out, or --dev, judge the model, and calibrate it: its default operating
        point is the fastest that they prove, with 95 % confidence, to change at most 1 % of the
        labels, or 2, 5 or 10 % where they are too few for that.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done, but the model is not proven to
        be better than its most frequent class.
        """,
        "fastbert train --train s3://corpus/train/ --label-column topic \\\n"
        "    --output s3://models/news",
    ),
    "distill": Entry(
        checkpoints.DistilSettings,
        "pipelines.checkpoints.distill:distill",
        """Give an existing Hugging Face classifier early exits, without any labels.

        The classifier itself is not changed: at full depth the checkpoint answers as it does. How
        often each exit agrees with it is reported, on texts that are held out.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done, but the exits have learnt
        nothing.
        """,
        "fastbert distill --teacher textattack/bert-base-uncased-ag-news \\\n"
        "    --corpus s3://corpus/docs/ --output s3://models/news",
    ),
    "convert": Entry(
        checkpoints.ConvertSettings,
        "pipelines.checkpoints.convert:convert",
        """Turn a checkpoint of the FastBERT authors' code into one of ours.

        It is a bare state dict, which says nothing of labels and vocabulary: they are given beside
        it. Logits and exit layers stay what they were.
        """,
        "fastbert convert --checkpoint fastbert.bin --vocabulary google_zh_vocab.txt \\\n"
        "    --label negative --label positive --output models/reviews",
    ),
    "calibrate": Entry(
        checkpoints.CalibrateSettings,
        "pipelines.checkpoints.calibrate:calibrate",
        """Find thresholds that keep a promise, and store them in the checkpoint.

        The promise is about labels: at most a share of them may differ from full depth's
        (--max-disagreement; needs no labels), or be wrong where full depth is right
        (--max-accuracy-loss; needs labels). --speedup asks for an amount of work instead, and says
        what it costs.
        """,
        "fastbert calibrate --model s3://models/news --corpus s3://corpus/2026-11/ \\\n"
        "    --max-disagreement 0.01",
    ),
    "evaluate": Entry(
        checkpoints.EvaluateSettings,
        "pipelines.checkpoints.evaluate:evaluate",
        """Accuracy, exit layers, FLOPs and seconds of a checkpoint at several speeds.

        Every row runs through all layers once, and then every speed is known; only the realised
        speed-up needs the clock.
        """,
        "fastbert evaluate --model s3://models/news --data s3://corpus/test/ --speeds 0.5",
    ),
    "label": Entry(
        checkpoints.LabelAnySettings,
        "pipelines.checkpoints.own_exits:label_with_any",
        """Label a corpus with a classifier, on this machine or on Ray.

        Reads every file of the input (Parquet, Arrow, JSON Lines, CSV), writes one Parquet file
        per slice below OUTPUT/table, and a record of it below OUTPUT/ledger. Run again, it labels
        only new and changed files. Without --speed or --operating-point it works at the operating
        point of the output's last run, and at the checkpoint's default one for a new output.

        A Hugging Face classifier that has no exits gets some, of its own answers to a sample of the
        input, where the input is large enough for that to pay. They are kept in OUTPUT/model.
        Several models have an output each, OUTPUT/NAME, or one where their backbones are the same.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done but with unreadable shards or
        more bad rows than allowed, 4 another run holds the output; --alarm-exit-code adds one.
        """,
        "fastbert label --input s3://corpus/docs/ --output s3://corpus/labels \\\n"
        "    --model s3://models/news --speed 0.5 --gpus-per-replica 1 --replicas 1:8",
    ),
    "report": Entry(
        settings.ReportSettings,
        "pipelines.reports.job:report",
        """What a labelled output holds and what it cost: exit layers, labels and runs.

        With --sql, any query over the views rows (all columns of table/), slices (one row per file
        of the table), exits (statistics per commit and exit layer) and runs. With --check, only
        whether something needs a person.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 5 (--check) something needs a person.
        """,
        "fastbert report --output s3://corpus/labels \\\n"
        '    --sql "select label, avg(exit_layer) from rows group by label"',
    ),
    "filter": Entry(
        settings.FilterSettings,
        "pipelines.filter.job:filter_rows",
        """Keep the rows of the input whose labels satisfy a condition.

        Rows and labels are joined by file and place, so no column of ids is needed. Kept rows have
        all columns of the input. Run again, it replaces what it has kept before; killed, it is
        begun again.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done but without shards that have
        changed since they were labelled, have no labels, or cannot be read.
        """,
        "fastbert filter --input s3://corpus/docs/ --output s3://corpus/labels \\\n"
        "    --where \"quality_value >= 3 and domain_label <> 'adult'\" \\\n"
        "    --kept s3://corpus/good --format jsonl.zst",
    ),
    "export": Entry(
        settings.ExportSettings,
        "pipelines.export.job:export",
        """Bring a Delta or Iceberg table up to date with a labelled output, run by run.

        Each run that has ended is one transaction: it adds the run's rows, and removes those that
        it replaced or that are no longer in the output. Run again, it does nothing; killed, it goes
        on where it was.
        """,
        "fastbert export --output s3://corpus/labels --delta s3://lake/labels",
    ),
}
