"""Settings of the jobs that make, evaluate and calibrate checkpoints."""

from dataclasses import dataclass
from typing import Literal

from fastbert.errors import InputError
from fastbert.exits.exit import PAPER_EXITS
from pipelines.bounds import Count, Many, NoLess, NotNegative, PartOf, Positive, Seed, Share, Soft
from pipelines.settings import LabelledTexts, Labelling, OneModel, Settings, Texts, setting

#: The criteria of `fastbert.exits.criteria`, and auto, which chooses one.
Criterion = Literal[
    "auto", "tempered-entropy", "entropy", "top-entropy", "max-probability", "margin"
]
_GONE = {
    "patience": "removed, as it was never the fastest; use tempered-entropy, the default, or auto"
}
_ONE_SHAPE = {
    "per-layer": "removed, because with tempered-entropy one threshold fits all; omit --shape"
}


@dataclass(frozen=True, kw_only=True)
class NewCheckpoint(Settings):
    """Settings of jobs that make a checkpoint."""

    output: str = setting("Where to write the checkpoint, a folder.")


@dataclass(frozen=True, kw_only=True)
class SelfDistillation(Texts, NewCheckpoint):
    """Settings of jobs that make a checkpoint by self-distillation."""

    task: tuple[str, ...] = setting(
        "The kind of answer. single-label: one class of several. several-labels: any number of "
        "classes. score: a number. auto: from a classifier's configuration, or from the label "
        "column: strings or integers, lists of strings, floating-point numbers. For one of several "
        "label columns: NAME=score; may be repeated.",
        ("auto",),
    )
    cutoff: tuple[str, ...] = setting(
        "For several labels: lowest probability at which a row gets a label. NAME=0.3 sets it for "
        "one label; may be repeated. Default: 0.5.",
        (),
    )

    max_length: Count | None = setting(
        "Longest input in tokens, special tokens included. Default: the first of 64, 128, 256, 512 "
        "... that holds 95 % of the texts whole, if the backbone allows it.",
        None,
    )
    windows: str | None = setting(
        "Read longer texts as up to this number of windows of --max-length tokens, or all. Their "
        "answers are pooled; exits, promises and audits apply to the text. Default: read only the "
        "beginning.",
        None,
    )
    stride: NoLess = setting("With --windows, tokens that successive windows share.", 0)
    pool: Literal["mean", "max", "first"] = setting(
        "With --windows, how to combine the answers of a text's windows. first: take that of the "
        "first window, and do not read the others.",
        "mean",
    )
    recipe: Literal["auto", "paper"] = setting(
        "Source of epochs, rates and length that are not given. auto: by rows, classes and "
        "backbone; logged. paper: Liu et al. 2020, 3 epochs at 2e-5, then 5 at 2e-4, 128 tokens.",
        "auto",
    )
    distil_epochs: NotNegative | None = setting(
        "Passes over the data in self-distillation. Default: see --recipe.", None
    )
    distil_learning_rate: Positive | None = setting(
        "Peak learning rate of self-distillation. Default: 0.001, or see --recipe.", None
    )
    temperature: Soft = setting("Softens answers of teacher and students to compare them.", 1.0)
    batch_size: Count = setting("Rows per optimizer step and worker.", 32)
    bag: bool = setting(
        "Also make an exit before the first layer: a small model of a text's tokens and pairs of "
        "tokens. Calibrated points use it, --speed does not.",
        True,
    )
    workers: Count = setting("Training processes; above 1 they run on Ray Train.", 1)
    seed: Seed = setting("Seed of initial weights and shuffling.", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows not in (None, "all") and not (self.windows or "").isdecimal():
            raise InputError(f"--windows is '{self.windows}', expected a number, or all")
        if self.windows is None and (self.stride or self.pool != "mean"):
            raise InputError("--stride and --pool go with --windows")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(SelfDistillation, LabelledTexts):
    """`fastbert train`."""

    train: tuple[str, ...] = setting("Labelled texts: files, folders or globs.")
    dev: tuple[str, ...] = setting(
        "Labelled texts: half of them decide when to stop, the rest evaluate and calibrate. "
        "Default: rows held out of --train.",
        (),
    )
    unlabeled: tuple[str, ...] = setting("Further texts for self-distillation, without labels.", ())
    backbone: str = setting(
        "Pre-trained encoder, a hub id or a folder: BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, "
        "DistilBERT, DeBERTa-v2 or v3 (mDeBERTa), or ModernBERT (mmBERT).",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    epochs: Positive | None = setting(
        "Largest number of passes over the data in fine-tuning. Default: see --recipe.", None
    )
    learning_rate: Positive | None = setting(
        "Peak learning rate of fine-tuning. Default: see --recipe.", None
    )
    joint: bool = setting(
        "Also train all branches on the labels in fine-tuning; --distil-epochs may then be 0.",
        False,
    )
    hard_labels: Share = setting(
        "Weight of the labels in self-distillation, 0 to 1; the teacher has the rest.", 0.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distil_epochs == 0 and not self.joint:
            raise InputError("--distil-epochs 0 leaves branches untrained; pass --joint as well")


@dataclass(frozen=True, kw_only=True)
class DistilSettings(SelfDistillation):
    """`fastbert distill`."""

    output: str = setting("Where to write the checkpoint, a folder. Not with --in-place.", "")
    teacher: tuple[str, ...] = setting(
        "A Hugging Face sequence classifier, a hub id or a folder; with --add-bag, a FastBERT "
        "checkpoint. Repeat it for classifiers on the same backbone (all tensors equal): one pass "
        "then answers the questions of all."
    )
    question: tuple[str, ...] = setting(
        "Name of a question, as a prefix of its columns, if there are several; once for each, in "
        "their order. Default: the classifier's name for it, or the name of its folder.",
        (),
    )
    corpus: tuple[str, ...] = setting("Texts; labels are not needed and not used.")
    add_bag: bool = setting(
        "Only add an exit before the first layer to --teacher, which has exits: takes minutes. Its "
        "points stay; calibrate it to use the new exit.",
        False,
    )
    in_place: bool = setting(
        "With --add-bag, write to --teacher itself. Outputs labelled with it then need "
        "--on-change.",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.output) == self.in_place:
            raise InputError("pass one of --output and, with --add-bag, --in-place")
        if self.in_place and not self.add_bag:
            raise InputError("--in-place goes with --add-bag: other teachers are not overwritten")
        if self.add_bag:
            self._check_only_bag()
            if self.in_place:
                object.__setattr__(self, "output", self.teacher[0])
        if self.distil_epochs == 0:
            raise InputError(f"--distil-epochs is {self.distil_epochs}, expected more than 0")

    def _check_only_bag(self) -> None:
        """Raises InputError for options that --add-bag does not use."""
        useless = {
            "--pair-column": self.pair_column,
            "--windows": self.windows,
            "--task": self.task != ("auto",),
            "--question": self.question,
            "more than one --teacher": len(self.teacher) > 1,
            "--cutoff": self.cutoff,
            "--max-length": self.max_length,
            "--recipe": self.recipe != "auto",
            "--distil-epochs": self.distil_epochs,
            "--distil-learning-rate": self.distil_learning_rate,
            "--temperature": self.temperature != 1.0,
            "--no-bag": not self.bag,
            "--workers": self.workers > 1,
        }
        if given := [name for name, value in useless.items() if value]:
            raise InputError(f"--add-bag does not go with {given[0]}")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(NewCheckpoint):
    """`fastbert convert`."""

    checkpoint: str = setting("The authors' .bin file.")
    vocabulary: str = setting("The vocabulary that it was trained with, one token per line.")
    label: tuple[str, ...] = setting(
        "Class name, once for each class and in their order. Default: 0, 1, ...", ()
    )
    max_length: Count = setting("Longest input in tokens, special tokens included.", 128)
    heads: Count | None = setting(
        "Attention heads of a layer. Default: the hidden size divided by 64, as in BERT.", None
    )


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(OneModel, LabelledTexts):
    """`fastbert calibrate`. Most fields make a `Goal`, which checks itself."""

    corpus: tuple[str, ...] = setting("Texts like those to be labelled.")
    max_disagreement: PartOf | None = setting(
        "Largest share of labels that may differ from full depth's.", None
    )
    tolerance: tuple[str, ...] = setting(
        "For a score: largest difference from full depth's at which both count as equal, in the "
        "score's unit. Goes with --max-disagreement or --speedup. For one of several questions: "
        "NAME=0.2.",
        (),
    )
    cutoff: tuple[str, ...] = setting(
        "For a score that is used as a filter: scores on the same side of all cut-offs count as "
        "equal; a score equal to a cut-off is above it. Goes with --max-disagreement or --speedup; "
        "may be repeated. For one of several questions: NAME=3.",
        (),
    )
    max_accuracy_loss: PartOf | None = setting(
        "Largest share of rows that may be wrong where full depth is right; needs labels.", None
    )
    speedup: Positive | None = setting("Times fewer FLOPs than full depth; no promise.", None)
    confidence: PartOf = setting("Probability with which a promise or bound holds.", 0.95)
    promise_rows: Many | None = setting(
        "Number of rows that the promise covers. Default: no limit.", None
    )
    against: Literal["own", "fp32"] = setting(
        "The full depth to compare answers with. own: in the point's own precision. fp32: the "
        "promise then includes changes by the precision.",
        "own",
    )
    criterion: Criterion = setting(
        "The uncertainty that thresholds apply to. tempered-entropy: the entropy of the answers of "
        "all exits so far, each scaled to be as sure as it is right. The others use one exit "
        "alone. auto takes the fastest, and needs more rows to choose it.",
        "tempered-entropy",
        gone=_GONE,
    )
    shape: Literal["auto", "uniform"] = setting(
        "One threshold for all layers; the only shape.", "uniform", gone=_ONE_SHAPE
    )
    exits: str | None = setting(
        "Exits to choose from, by the number of layers before them: 0 is before the first layer, "
        "1- means all others, 0- all, 0,2-4 these four. Default: all; for a promise on a GPU, "
        "those that save time there.",
        None,
    )
    rows: Count = setting("Rows to calibrate on, drawn at random from the corpus.", 20000)
    name: str | None = setting(
        "Name of the point; a number is added if another has this name. Default: made from the "
        "goal.",
        None,
    )
    default: bool = setting(
        "Make it the checkpoint's default point, for new outputs; existing ones keep their point.",
        True,
    )
    seed: Seed = setting("Seed of drawing and dividing the rows.", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = (self.max_disagreement, self.max_accuracy_loss, self.speedup)
        if sum(value is not None for value in asked) != 1:
            raise InputError(
                "pass one of --max-disagreement, --max-accuracy-loss and --speedup, the goal of "
                "the point"
            )
        if self.speedup is not None and self.against != "own":
            raise InputError("--against goes with a promise, and --speedup makes none")
        if self.speedup is not None and self.criterion == "auto":
            raise InputError("--speedup needs a --criterion other than auto")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(OneModel, LabelledTexts):
    """`fastbert evaluate`."""

    data: tuple[str, ...] = setting("Texts, labelled unless --no-labels.")
    speeds: tuple[Share, ...] = setting(
        "Thresholds on the normalised entropy, 0 (full depth) to 1; may be repeated.",
        (0.1, 0.3, 0.5, 0.8),
    )
    exits: str = setting(
        "Exits that --speeds may use, by the number of layers before them: 0- is all, 0,2-4 four.",
        PAPER_EXITS,
    )
    labels: bool = setting("Compare with labels; otherwise only with full depth.", True)
    timing: bool = setting("Also time each speed and full depth.", True)
    json: bool = setting("Print only the JSON summary, no table.", False)


@dataclass(frozen=True, kw_only=True)
class LabelAnySettings(Labelling):
    """`fastbert label`: labelling with checkpoints, or with classifiers that get exits."""

    model: tuple[str, ...] = setting(
        "A FastBERT checkpoint or a Hugging Face classifier: a folder, a URL, or an id on the hub. "
        "If repeated, each has its own output, OUTPUT/NAME, except classifiers with the same "
        "backbone, which share one."
    )
    max_disagreement: PartOf = setting(
        "When exits are made for a --model: largest share of labels that may differ from its own.",
        0.01,
    )
    tolerance: tuple[str, ...] = setting(
        "For such a model's score: largest difference at which scores count as equal. For one of "
        "several: NAME=0.2.",
        (),
    )
    cutoff: tuple[str, ...] = setting(
        "For the score of such a model, used as a filter: scores on the same side of all cut-offs "
        "count as equal; may be repeated. For one of several: NAME=3.",
        (),
    )
    make_exits: Literal["auto", "always", "never"] = setting(
        "Whether to make exits for such a model. auto: if the input is large enough for that to "
        "pay. never: the whole model answers each row.",
        "auto",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.model)) < len(self.model):
            raise InputError(f"--model names one model twice: {', '.join(self.model)}")
