"""Every command: its settings, the function that it runs, and its help.

A command imports its function only when it is called, so help needs neither torch nor Ray.
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
    #: The help text; lists of commands show its first sentence.
    says: str
    example: str


COMMANDS = {
    "train": Entry(
        checkpoints.TrainSettings,
        "pipelines.checkpoints.train:train",
        """Fine-tune a backbone on labels, then self-distil a branch on every layer.

        Held-out rows, or --dev, evaluate the model and calibrate it: its default operating point is
        the fastest for which they prove, with 95 % confidence, that at most 1 % of the labels
        change, or 2, 5 or 10 % if there are too few rows for 1 %.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done, and the model is not proven to
        be better than its most frequent class.
        """,
        "fastbert train --train s3://corpus/train/ --label-column topic \\\n"
        "    --output s3://models/news",
    ),
    "distill": Entry(
        checkpoints.DistilSettings,
        "pipelines.checkpoints.distill:distill",
        """Give an existing Hugging Face classifier early exits, without any labels.

        The classifier itself does not change: at full depth the checkpoint gives the same answers.
        The command reports how often each exit agrees with it on held-out texts.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done, and the exits have learnt
        nothing.
        """,
        "fastbert distill --teacher textattack/bert-base-uncased-ag-news \\\n"
        "    --corpus s3://corpus/docs/ --output s3://models/news",
    ),
    "convert": Entry(
        checkpoints.ConvertSettings,
        "pipelines.checkpoints.convert:convert",
        """Convert a checkpoint of the FastBERT authors' code.

        Such a checkpoint is a bare state dict, without labels and vocabulary: pass them as options.
        Logits and exit layers stay the same.
        """,
        "fastbert convert --checkpoint fastbert.bin --vocabulary google_zh_vocab.txt \\\n"
        "    --label negative --label positive --output models/reviews",
    ),
    "calibrate": Entry(
        checkpoints.CalibrateSettings,
        "pipelines.checkpoints.calibrate:calibrate",
        """Find thresholds that keep a promise, and store them in the checkpoint.

        The promise limits the share of labels that differ from full depth's (--max-disagreement;
        needs no labels), or that are wrong where full depth is right (--max-accuracy-loss; needs
        labels). --speedup sets the amount of work instead, and reports how many labels change.
        """,
        "fastbert calibrate --model s3://models/news --corpus s3://corpus/2026-11/ \\\n"
        "    --max-disagreement 0.01",
    ),
    "evaluate": Entry(
        checkpoints.EvaluateSettings,
        "pipelines.checkpoints.evaluate:evaluate",
        """Measure accuracy, exit layers, FLOPs and seconds of a checkpoint at several speeds.

        Every row runs through all layers once, which gives the results of every speed. Only the
        realised speed-up is timed.
        """,
        "fastbert evaluate --model s3://models/news --data s3://corpus/test/ --speeds 0.5",
    ),
    "label": Entry(
        checkpoints.LabelAnySettings,
        "pipelines.checkpoints.own_exits:label_with_any",
        """Label a corpus with a classifier, on this machine or on Ray.

        Reads every file of the input (Parquet, Arrow, JSON Lines, CSV), writes one Parquet file per
        slice below OUTPUT/table, and its record below OUTPUT/ledger. A second run labels only new
        and changed files. Without --speed and --operating-point, it uses the operating point of the
        output's last run, or the checkpoint's default one for a new output.

        For a Hugging Face classifier without exits, the command makes exits if the input is large
        enough for that to pay. They learn from the classifier's answers to a sample of the input,
        and are kept in OUTPUT/model. Each of several models has its own output, OUTPUT/NAME; models
        with the same backbone share one.

        Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 done, with unreadable shards or more
        bad rows than allowed, 4 another run holds the output; --alarm-exit-code adds one.
        """,
        "fastbert label --input s3://corpus/docs/ --output s3://corpus/labels \\\n"
        "    --model s3://models/news --speed 0.5 --gpus-per-replica 1 --replicas 1:8",
    ),
    "report": Entry(
        settings.ReportSettings,
        "pipelines.reports.job:report",
        """Report what a labelled output holds and what it cost: exit layers, labels and runs.

        With --sql, any query over the views rows (all columns of table/), slices (one row per file
        of the table), exits (statistics per commit and exit layer) and runs. With --check, it only
        reports whether something needs a person.

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
