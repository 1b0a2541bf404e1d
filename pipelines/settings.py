"""Every setting of every job, in one place: its default, unit and meaning.

The commands derive their options from these fields (`text_column` is `--text-column`), so the
library and the command line cannot disagree. Imports nothing heavy, so `--help` is fast.
"""

import re
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from fastbert.errors import InputError
from pipelines.bounds import AlarmCode, Count, NotNegative, Positive, Share

#: Arithmetic of the model.
Precision = Literal["auto", "fp32", "bf16", "int8", "fp8"]
#: What to do with an output's labels if model or operating point have changed since.
OnChange = Literal["refuse", "new", "relabel"]
#: Most bytes of a run's name: file systems allow 255 for file names made from it.
_LONGEST_NAME = 200

#: Share of rows that may leave at other layers than at calibration. Corpora vary by a few percent
#: from run to run, and users ignore an alarm that every run raises.
DRIFT_TOLERANCE = 0.05


def setting(help: str, default: Any = MISSING, gone: dict[str, str] | None = None) -> Any:
    """A field with its help text; without a default it is required. `gone` maps removed values to
    the error message for them."""
    return field(default=default, metadata={"help": help, "gone": gone or {}})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one command. Raises InputError for numbers out of bounds, and for empty strings:
    an empty path would mean the working directory."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            found, flag = getattr(self, name), name.replace("_", "-")
            values = found if isinstance(found, tuple) else (found,)
            if "" in values and type(self).__dataclass_fields__[name].default != "":
                raise InputError(f"--{flag} is empty, expected a value: is a shell variable unset?")
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
            "expected a folder or a bucket; upload its table/ afterwards with hf upload"
        )


@dataclass(frozen=True, kw_only=True)
class Texts(Settings):
    """Columns of the input's texts."""

    text_column: str = setting("Column of the text.", "text")
    pair_column: str | None = setting("Column of the second text, for pairs of texts.", None)


@dataclass(frozen=True, kw_only=True)
class LabelledTexts(Texts):
    """Texts with known classes."""

    label_column: tuple[str, ...] = setting(
        "Column of the true labels: classes, lists of classes, or numbers. Repeat it to ask "
        "several questions of each text, in this order; each is named after its column.",
        ("label",),
    )


@dataclass(frozen=True, kw_only=True)
class Inference(Texts):
    """Settings of jobs that run texts through a model."""

    precision: Precision = setting(
        "Arithmetic. auto takes the first that applies: that of an output that the run continues; "
        "that of the operating point, if the machine supports it; bf16, if the hardware multiplies "
        "it; fp32. int8 (CPUs) and fp8 (GPUs from Hopper, H100, on) change a few labels.",
        "auto",
    )


@dataclass(frozen=True, kw_only=True)
class OneModel(Inference):
    """Settings of jobs that run texts through one FastBERT checkpoint."""

    model: str = setting("A FastBERT checkpoint: a folder, a URL, or an id on the hub.")


@dataclass(frozen=True, kw_only=True)
class Labelling(Inference):
    """Settings of labelling a corpus, with any model."""

    input: tuple[str, ...] = setting(
        "What to label: files, folders, globs or Delta tables, any fsspec URL."
    )
    output: str = setting("Root of the output: table/, ledger/ and stats/ are below it.")
    speed: Share | None = setting(
        "Exit as soon as the normalised entropy is below this: 0 is full depth, 1 is fastest.", None
    )
    exits: str | None = setting(
        "With --speed, exits to use, by the number of layers before them: 0 is before the first "
        "layer, 1- means all others, 0,2-4 these four. Default: 1-, as in the paper.",
        None,
    )
    operating_point: str | None = setting(
        "Use these thresholds of the checkpoint, by name, instead of --speed.", None
    )
    carry: tuple[str, ...] = setting(
        "Input column to copy to the output; may be repeated. Default: all except the text. A "
        "column with the name of an output column is copied as input_NAME.",
        (),
    )
    id_column: str | None = setting(
        "Input column that identifies rows; always copied. With --no-carry, the output holds only "
        "ids and answers, to join with the corpus.",
        None,
    )
    no_carry: bool = setting("Copy no column except --id-column.", False)
    truncated: bool = setting(
        "Add the column `truncated`: whether the text was longer than the model reads. Outputs "
        "begun by this release always have it.",
        False,
    )
    all_scores: bool = setting(
        "Add the column `scores`: the probability of every class, whose names are in the column's "
        "metadata.",
        False,
    )
    audit_rate: Share = setting(
        "Share of this run's rows to run to full depth as well, 0 to 1.", 0.0
    )
    drift_tolerance: Share = setting(
        "Share of rows that may leave at other layers than at calibration without an alarm.",
        DRIFT_TOLERANCE,
    )
    slice_rows: Count = setting("Rows per slice, the unit of work, of memory and of commit.", 16384)
    executor: Literal["auto", "local", "ray"] = setting(
        "Where to run. local: processes of this machine, one replica. ray: the cluster at "
        "RAY_ADDRESS, or a Ray started here. auto: ray in a Ray job, with RAY_ADDRESS, for more "
        "than one replica and for several GPUs; otherwise local.",
        "auto",
    )
    replicas: str = setting("Number of model replicas, N or MIN:MAX.", "1")
    gpus_per_replica: NotNegative | None = setting(
        "GPUs each replica holds. Default: 1 if the cluster has GPUs, 0 if not.", None
    )
    cpus_per_replica: Count | None = setting(
        "CPU cores each replica holds. Default: 1 with a GPU; without, the machine's share.",
        None,
    )
    run_id: str | None = setting("Name of this run in the ledger. Default: UTC time.", None)
    prune: bool = setting("Remove the output of shards that are no longer in the input.", False)
    on_change: OnChange = setting(
        "What to do if checkpoint or operating point differ from the last run's. refuse: exit with "
        "code 2. new: use the new ones for new and changed shards, and keep all other labels. "
        "relabel: label everything again, also if columns or the length differ. Without --speed "
        "and --operating-point, refuse continues with the last run's point if the checkpoint still "
        "has it; new and relabel take the checkpoint's default point.",
        "refuse",
    )
    relabel: bool = setting("The same as --on-change relabel.", False)
    dry_run: bool = setting("Report what the run would do, and do nothing.", False)
    retry_quarantined: bool = setting("Label again the slices that an earlier run gave up.", False)
    retry_errors: bool = setting(
        "Label again the slices that have rows with an error not caused by their text: model or "
        "tokenizer failed, or the slice was given up.",
        False,
    )
    slice_attempts: Count = setting(
        "Number of times a slice may end its process before the run gives it up.", 3
    )
    slice_timeout: Positive = setting(
        "Seconds on one slice after which its process counts as hung and is ended.", 3600.0
    )
    max_bad_rows: Share = setting(
        "Share of this run's rows with an error above which the exit code is 3.", 0.01
    )
    alarm_exit_code: AlarmCode = setting(
        "Exit code of a run that raises an alarm: 0, or 5 to 125. Codes 1 to 4 take precedence.",
        0,
    )
    price_per_hour: NotNegative | None = setting("Price of a replica per hour, to report.", None)
    metrics_file: str | None = setting(
        "Local file for this run's Prometheus counters, such as NAME.prom in the folder of "
        "node_exporter's textfile collector.",
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
                "--exits goes with --speed; fastbert calibrate chooses the exits of a point"
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
        names = () if self.id_column is None else (self.id_column,)
        if self.no_carry or self.carry:
            return tuple(dict.fromkeys((*names, *self.carry)))
        return None

    @property
    def change(self) -> OnChange:
        """--on-change, which --relabel also sets."""
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
    title: str | None = setting("Title of that page. Default: names the output.", None)
    json: bool = setting(
        "Print only the JSON summary; without it, a terminal gets tables and no JSON.", False
    )
    least_certain: Count | None = setting(
        "Also show this number of rows that the model was least certain of; reads the table.", None
    )
    text_from: tuple[str, ...] = setting(
        "The --input of fastbert label, to show the texts of --least-certain.", ()
    )
    check: bool = setting(
        "Only list what needs a person, one per line: alarms and too many bad rows of the last run "
        "that labelled something, and unreadable shards. Exit code 5 if there is any.",
        False,
    )
    max_age: Positive | None = setting(
        "With --check, hours since the last run ended after which that, too, needs a person.", None
    )
    truth_column: str | None = setting(
        "Carried column with true labels: adds accuracy by exit layer; reads the table.", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.save is not None and self.sql is None:
            raise InputError("--save writes the result of --sql; pass a query, or --html")
        if self.sql is not None and (self.html or self.truth_column or self.least_certain):
            raise InputError(
                "--sql answers one query; --html, --truth-column and --least-certain belong to the "
                "report without it"
            )
        others = self.sql or self.html or self.truth_column or self.least_certain
        if (self.check and others) or (self.max_age and not self.check):
            raise InputError("--check goes with --output, --max-age and --json only")
        if (self.title and not self.html) or (self.text_from and not self.least_certain):
            raise InputError("--title goes with --html, and --text-from with --least-certain")
