"""Every setting of every job: its default, its unit and what it means, in one place.

The commands derive their options from these fields (`text_column` is `--text-column`), so the
library and the command line cannot disagree. Imports nothing heavy: `--help` is instant.
"""

import re
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from fastbert.errors import InputError
from pipelines.bounds import AlarmCode, Count, NotNegative, Positive, Share

#: Of the model's numbers.
Precision = Literal["auto", "fp32", "bf16", "int8", "fp8"]
#: What becomes of an output's labels where model or operating point have changed since.
OnChange = Literal["refuse", "new", "relabel"]
#: Bytes of a run's name: file systems allow 255 for those of its files.
_LONGEST_NAME = 200

#: Share of rows that may leave elsewhere than at calibration. Corpora breathe by a few percent from
#: night to night, and an alarm that goes off every night is not read.
DRIFT_TOLERANCE = 0.05


def setting(help: str, default: Any = MISSING, gone: dict[str, str] | None = None) -> Any:
    """A field with its help text; without a default it must be given. `gone` are values that once
    were, and what to say to those who pass them."""
    return field(default=default, metadata={"help": help, "gone": gone or {}})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of one command. Raises InputError for numbers that are out of bounds, and for empty texts: a
    path without a letter is the folder one happens to be in."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            found, flag = getattr(self, name), name.replace("_", "-")
            values = found if isinstance(found, tuple) else (found,)
            if "" in values and type(self).__dataclass_fields__[name].default != "":
                raise InputError(
                    f"--{flag} is empty, expected a value: is a variable of the shell not set?"
                )
            for kind in (hint, *get_args(hint)):  # Positive and, in it, Positive | None
                for bound in getattr(kind, "__metadata__", ()):
                    for value in values:
                        if value is not None and not bound.holds(value):
                            raise InputError(f"--{flag} is {value}, expected {bound.expected}")


def check_not_on_hub(flag: str, url: str) -> None:
    """Raises InputError for a place on the Hugging Face hub."""
    if url.startswith("hf://"):
        raise InputError(
            f"--{flag} is '{url}', on the Hugging Face hub, where each file would be a commit; "
            "expected a folder or a bucket; upload it afterwards with hf upload"
        )


@dataclass(frozen=True, kw_only=True)
class Texts(Settings):
    """Of which columns the input's texts are."""

    text_column: str = setting("Column of the text.", "text")
    pair_column: str | None = setting("Column of the second text, for pairs of texts.", None)


@dataclass(frozen=True, kw_only=True)
class LabelledTexts(Texts):
    """Texts whose classes are known, too."""

    label_column: tuple[str, ...] = setting(
        "Column of the truth: classes, lists of them, or numbers. Repeated, several questions are "
        "asked of each text, in this order; each is called as its column.",
        ("label",),
    )


@dataclass(frozen=True, kw_only=True)
class Inference(Texts):
    """What runs texts through a model."""

    precision: Precision = setting(
        "Arithmetic. auto: the output's if it goes on, else the operating point's if there is one "
        "that the machine can do, else bf16 where the hardware multiplies it, else fp32. int8, on "
        "CPUs, and fp8, on GPUs from Hopper (H100) on, change a few labels.",
        "auto",
    )


@dataclass(frozen=True, kw_only=True)
class OneModel(Inference):
    """What runs texts through one FastBERT checkpoint."""

    model: str = setting("A FastBERT checkpoint: a folder, a URL, or an id on the hub.")


@dataclass(frozen=True, kw_only=True)
class Labelling(Inference):
    """How a corpus is labelled, by whichever model."""

    input: tuple[str, ...] = setting(
        "What to label: files, folders, globs or Delta tables, any fsspec URL."
    )
    output: str = setting("Root of the output: table/, ledger/ and stats/ are below it.")
    speed: Share | None = setting(
        "Exit as soon as the normalised entropy is below this: 0 is full depth, 1 is fastest.", None
    )
    exits: str | None = setting(
        "With --speed, the exits that may be used, by the layers before them: 0 is the one before "
        "the first layer, 1- stands for all others, 0,2-4 for some. Default: 1-, as in the paper.",
        None,
    )
    operating_point: str | None = setting(
        "Use these thresholds of the checkpoint, by name, instead of --speed.", None
    )
    carry: tuple[str, ...] = setting(
        "Input column to copy to the output; may be repeated. Default: all except the text. A "
        "column named like one of the output's own is copied as input_NAME.",
        (),
    )
    id_column: str | None = setting(
        "Input column that names rows, copied whatever else is. With --no-carry the output is ids "
        "and answers alone, to be joined with the corpus.",
        None,
    )
    no_carry: bool = setting("Copy no column except --id-column.", False)
    truncated: bool = setting(
        "Add the column `truncated`: whether the text was longer than the model reads. Outputs "
        "begun by this release have it anyway.",
        False,
    )
    all_scores: bool = setting(
        "Add the column `scores`: the probability of every class, whose names are in the column's "
        "metadata.",
        False,
    )
    audit_rate: Share = setting("Share of this run's rows that go to full depth, too, 0 to 1.", 0.0)
    drift_tolerance: Share = setting(
        "Share of rows that may leave at other layers than at calibration before that is an alarm.",
        DRIFT_TOLERANCE,
    )
    slice_rows: Count = setting("Rows per slice, the unit of work, of memory and of commit.", 16384)
    executor: Literal["auto", "local", "ray"] = setting(
        "Where to run. local: processes of this machine, one replica. ray: the cluster at "
        "RAY_ADDRESS, or a Ray started here. auto: ray in a Ray job, with RAY_ADDRESS, for more "
        "replicas and for several GPUs, else local.",
        "auto",
    )
    replicas: str = setting("Number of model replicas, N or MIN:MAX.", "1")
    gpus_per_replica: NotNegative | None = setting(
        "GPUs each replica holds. Default: 1 where the cluster has GPUs, else 0.", None
    )
    cpus_per_replica: Count | None = setting(
        "CPU cores each replica holds. Default: 1 with a GPU, else the machine's share.", None
    )
    run_id: str | None = setting("Name of this run in the ledger. Default: UTC time.", None)
    prune: bool = setting("Remove the output of shards that are no longer in the input.", False)
    on_change: OnChange = setting(
        "Where checkpoint or operating point differ from the last run's. refuse: end with 2. new: "
        "label new and changed shards by the new ones, and leave all others as they are. relabel: "
        "label everything again, also where columns or the length differ. Without --speed and "
        "--operating-point, refuse goes on with the last run's point, where the checkpoint still "
        "has it; new and relabel take the checkpoint's default one.",
        "refuse",
    )
    relabel: bool = setting("The same as --on-change relabel.", False)
    dry_run: bool = setting("Say what would be done, and do nothing.", False)
    retry_quarantined: bool = setting(
        "Label slices again that an earlier run has given up on.", False
    )
    retry_errors: bool = setting(
        "Label slices again with rows whose error is not their text's own: model or tokenizer "
        "failed, or the slice was given up on.",
        False,
    )
    slice_attempts: Count = setting(
        "Times a slice may end its process before its rows are given up on.", 3
    )
    slice_timeout: Positive = setting(
        "Seconds after which the process that works on a slice is taken to hang, and ended.", 3600.0
    )
    max_bad_rows: Share = setting(
        "Share of this run's rows with an error above which the exit code is 3.", 0.01
    )
    alarm_exit_code: AlarmCode = setting(
        "Exit code of a run that raises an alarm: 0, or 5 to 125. Of 1 to 4, each wins over it.", 0
    )
    price_per_hour: NotNegative | None = setting("Price of a replica's hour, to report.", None)
    metrics_file: str | None = setting(
        "Local file for this run's Prometheus counters, such as NAME.prom where node_exporter's "
        "textfile collector looks.",
        None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speed is not None and self.operating_point is not None:
            raise InputError("--speed and --operating-point exclude each other; pass one of them")
        check_not_on_hub("output", self.output)
        if self.no_carry and self.carry:
            raise InputError("--carry and --no-carry exclude each other; pass one of them")
        if self.exits is not None and self.speed is None:
            raise InputError(
                "--exits goes with --speed; which exits a point uses, fastbert calibrate decides"
            )
        if self.relabel and self.on_change == "new":
            raise InputError("--relabel and --on-change new exclude each other; pass one of them")
        if self.run_id is not None and (
            not re.fullmatch(r"(?!\.+$)[\w.:+-]+", self.run_id)
            or len(self.run_id.encode()) > _LONGEST_NAME
        ):
            raise InputError(
                f"--run-id is '{self.run_id}', expected letters, digits and _ . : + - only, not "
                f"dots alone, and at most {_LONGEST_NAME} bytes"
            )
        self.replica_range()

    @property
    def carried(self) -> tuple[str, ...] | None:
        """The columns to copy; None for all."""
        some = () if self.id_column is None else (self.id_column,)
        if self.no_carry or self.carry:
            return tuple(dict.fromkeys((*some, *self.carry)))
        return None

    @property
    def change(self) -> OnChange:
        """--on-change, by either name."""
        return "relabel" if self.relabel else self.on_change

    def replica_range(self) -> tuple[int, int]:
        """Fewest and most replicas."""
        least, _, most = self.replicas.partition(":")
        try:
            low, high = int(least), int(most or least)
        except ValueError:
            low, high = 0, 0
        if not 1 <= low <= high:
            raise InputError(f"--replicas is '{self.replicas}', expected N or MIN:MAX, from 1")
        return low, high


@dataclass(frozen=True, kw_only=True)
class LabelSettings(Labelling, OneModel):
    """The labelling job: one checkpoint, one output."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """`fastbert export`."""

    output: str = setting("Root of a labelled output, as given to fastbert label.")
    delta: str | None = setting("The Delta table to bring up to date; made if there is none.", None)
    iceberg: str | None = setting(
        "The Iceberg table: CATALOG.NAMESPACE.TABLE, of pyiceberg's configured catalogs.", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.delta is None) == (self.iceberg is None):
            raise InputError("expected a table to bring up to date: --delta or --iceberg")


@dataclass(frozen=True, kw_only=True)
class FilterSettings(Settings):
    """`fastbert filter`."""

    input: tuple[str, ...] = setting("What was labelled, as given to fastbert label.")
    output: str = setting("Root of a labelled output, as given to fastbert label.")
    where: str = setting(
        "Condition in SQL on the columns of the view rows: the rows are kept of which it is true."
    )
    kept: str = setting(
        "Folder for the kept rows, a file for each of the input's that has some. It gets what this "
        "run keeps, and nothing is left of what an earlier one has kept there."
    )
    format: Literal["parquet", "jsonl", "jsonl.gz", "jsonl.zst"] = setting(
        "Of the kept files. Lines of JSON Lines are kept in JSON Lines as they stand.", "parquet"
    )
    carry: tuple[str, ...] = setting(
        "Column of the labelled rows, such as score, to add to the kept ones; may be repeated.", ()
    )
    json: bool = setting(
        "Print only the JSON summary; without it, a terminal gets a table and no JSON.", False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_on_hub("kept", self.kept)


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """`fastbert report`."""

    output: str = setting("Root of a labelled output, as given to fastbert label.")
    sql: str | None = setting(
        "Run this query instead; the views are rows, slices, exits and runs.", None
    )
    save: str | None = setting(
        "Write the result of --sql to a file or URL ending in .csv, .json or .parquet.", None
    )
    html: str | None = setting("Also write the report as one HTML file, path or URL.", None)
    title: str | None = setting("Title of that page. Default: what it is of.", None)
    json: bool = setting(
        "Print only the JSON summary; without it, a terminal gets tables and no JSON.", False
    )
    least_certain: Count | None = setting(
        "Also show so many of the rows that the model was least certain of; reads the table.", None
    )
    text_from: tuple[str, ...] = setting(
        "The --input that was labelled: shows the texts of --least-certain.", ()
    )
    check: bool = setting(
        "Only say whether the output needs a person, in a line each: alarms and too many bad rows "
        "of the last run that labelled something, shards that cannot be read. Exit code 5 if so.",
        False,
    )
    max_age: Positive | None = setting(
        "Hours since a run has ended, after which --check asks for a person, too.", None
    )
    truth_column: str | None = setting(
        "Carried column with true labels: adds accuracy by exit layer, and reads the table.", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.save is not None and self.sql is None:
            raise InputError("--save writes the result of --sql; pass a query, or --html")
        if self.sql is not None and (self.html or self.truth_column or self.least_certain):
            raise InputError(
                "--sql answers a query of your own; --html, --truth-column and --least-certain "
                "belong to the report without it"
            )
        others = self.sql or self.html or self.truth_column or self.least_certain
        if (self.check and others) or (self.max_age and not self.check):
            raise InputError("--check goes with --output, --max-age and --json only")
        if (self.title and not self.html) or (self.text_from and not self.least_certain):
            raise InputError("--title goes with --html, and --text-from with --least-certain")
