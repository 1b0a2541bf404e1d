"""Settings of the jobs that make checkpoints, judge them and calibrate them."""

from dataclasses import dataclass
from typing import Literal

from fastbert.errors import InputError
from fastbert.exits.exit import PAPER_EXITS
from pipelines.bounds import Count, Many, NoLess, NotNegative, PartOf, Positive, Seed, Share, Soft
from pipelines.settings import LabelledTexts, Labelling, OneModel, Settings, Texts, setting

#: Those of `fastbert.exits.criteria`, and the choice among them.
Criterion = Literal[
    "auto", "tempered-entropy", "entropy", "top-entropy", "max-probability", "margin"
]
_GONE = {
    "patience": "it is gone, because it was never the fastest; calibrate with another criterion: "
    "tempered-entropy, the default, or auto, which takes the fastest"
}
_ONE_SHAPE = {
    "per-layer": "it is gone, because it was the fastest on no corpus any more: the criterion "
    "tempered-entropy makes one threshold fit all layers; leave --shape out"
}


@dataclass(frozen=True, kw_only=True)
class NewCheckpoint(Settings):
    """What makes a checkpoint."""

    output: str = setting("Where to write the checkpoint, a folder.")


@dataclass(frozen=True, kw_only=True)
class SelfDistillation(Texts, NewCheckpoint):
    """What makes a checkpoint by self-distillation."""

    task: tuple[str, ...] = setting(
        "What is asked. single-label: one class of several. several-labels: any number of them. "
        "score: a number. auto: of a classifier, what its configuration says; of labels, what "
        "their column holds: strings or integers, lists of strings, floating-point numbers. Of one "
        "of several label columns: NAME=score; may be repeated.",
        ("auto",),
    )
    cutoff: tuple[str, ...] = setting(
        "Of several labels: the probability from which on a row has a label, for all, or as "
        "NAME=0.3 for one; may be repeated. Default: 0.5.",
        (),
    )

    max_length: Count | None = setting(
        "Longest input in tokens, special tokens included. Default: the first of 64, 128, 256, 512 "
        "... that holds 95 % of the texts whole, if the backbone takes as many.",
        None,
    )
    windows: str | None = setting(
        "Read texts that are longer as so many windows of --max-length tokens, or all: their "
        "answers are pooled, and exits, promises and audits are about the text. Default: only the "
        "beginning is read.",
        None,
    )
    stride: NoLess = setting("With --windows, tokens that a window shares with the one before.", 0)
    pool: Literal["mean", "max", "first"] = setting(
        "With --windows, what a text's answer is of those of its windows. first: of the first one "
        "alone, and the others are not read.",
        "mean",
    )
    recipe: Literal["auto", "paper"] = setting(
        "What is not given in epochs, rates and length. auto: chosen by rows, classes and "
        "backbone, and said. paper: Liu et al. 2020, 3 epochs at 2e-5, then 5 at 2e-4, 128 tokens.",
        "auto",
    )
    distil_epochs: NotNegative | None = setting(
        "Passes over the data when self-distilling. Default: see --recipe.", None
    )
    distil_learning_rate: Positive | None = setting(
        "Peak learning rate when self-distilling. Default: 0.001, or see --recipe.", None
    )
    temperature: Soft = setting("Softens answers before students are compared with them.", 1.0)
    batch_size: Count = setting("Rows per optimizer step and worker.", 32)
    bag: bool = setting(
        "Also make an exit before the first layer: a small model of which tokens, and pairs of "
        "tokens, a text has. --speed does not use it, calibrated points do.",
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
        "Labelled texts: half of it chooses when to stop, the rest judges and calibrates. "
        "Default: some rows of --train are held out for that.",
        (),
    )
    unlabeled: tuple[str, ...] = setting("Further texts for self-distillation, no labels.", ())
    backbone: str = setting(
        "Pre-trained encoder, a hub id or a folder: BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, "
        "DistilBERT, DeBERTa-v2 or v3 (mDeBERTa), or ModernBERT (mmBERT).",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    epochs: Positive | None = setting(
        "Most passes over the data when fine-tuning. Default: see --recipe.", None
    )
    learning_rate: Positive | None = setting(
        "Peak learning rate when fine-tuning. Default: see --recipe.", None
    )
    joint: bool = setting(
        "Let all branches learn from the labels when fine-tuning; --distil-epochs may then be 0.",
        False,
    )
    hard_labels: Share = setting(
        "Weight of the labels when self-distilling, 0 to 1; the rest is the teacher's.", 0.0
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
        "checkpoint. Repeated, for classifiers on the same backbone, whose tensors are all equal: "
        "one pass then answers the questions of all."
    )
    question: tuple[str, ...] = setting(
        "Name of a question, which its columns begin with, where there are several; once for each, "
        "in their order. Default: as the classifier calls it, or its folder is called.",
        (),
    )
    corpus: tuple[str, ...] = setting("Texts; labels are not needed and not used.")
    add_bag: bool = setting(
        "Only give --teacher, which has exits, a new one before the first layer: minutes. Its "
        "points stay what they are; calibrate it to use the new exit.",
        False,
    )
    in_place: bool = setting(
        "With --add-bag, write to --teacher itself. Outputs that were labelled with it need "
        "--on-change then.",
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
        """Raises InputError for what --add-bag has no use for."""
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
    vocabulary: str = setting("The vocabulary it was trained with, a token per line.")
    label: tuple[str, ...] = setting(
        "Class name, once for each class and in their order. Default: 0, 1, ...", ()
    )
    max_length: Count = setting("Longest input in tokens, special tokens included.", 128)
    heads: Count | None = setting(
        "Attention heads of a layer. Default: the hidden size by 64, as in BERT.", None
    )


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(OneModel, LabelledTexts):
    """`fastbert calibrate`. Most of it makes a `Goal`, which checks itself."""

    corpus: tuple[str, ...] = setting("Texts like those to be labelled.")
    max_disagreement: PartOf | None = setting(
        "Largest share of labels that may differ from full depth's.", None
    )
    tolerance: tuple[str, ...] = setting(
        "Of a score: how far it may be from full depth's and still count as the same, in its own "
        "unit. Goes with --max-disagreement or --speedup. Of one of several questions: NAME=0.2.",
        (),
    )
    cutoff: tuple[str, ...] = setting(
        "Of a score that is used as a filter: scores on one side of all cut-offs count as the "
        "same; from a cut-off on they are above it. Goes with --max-disagreement or --speedup; may "
        "be repeated. Of one question among several: NAME=3.",
        (),
    )
    max_accuracy_loss: PartOf | None = setting(
        "Largest share of rows that may be wrong where full depth is right; needs labels.", None
    )
    speedup: Positive | None = setting("Times fewer FLOPs than full depth; no promise.", None)
    confidence: PartOf = setting("Probability with which a promise or bound holds.", 0.95)
    promise_rows: Many | None = setting(
        "How many rows the promise is about. Default: all that could ever come.", None
    )
    against: Literal["own", "fp32"] = setting(
        "The full depth that answers are compared with: that of the point's own precision, or "
        "fp32's, so that a promise is also about what the precision changes.",
        "own",
    )
    criterion: Criterion = setting(
        "What a threshold is compared with. tempered-entropy: the entropy of what the exits have "
        "said so far, each as sure as it is right. The others look at one exit alone. auto takes "
        "the fastest, and more rows to choose it.",
        "tempered-entropy",
        gone=_GONE,
    )
    shape: Literal["auto", "uniform"] = setting(
        "One threshold for all layers, the only shape there is.", "uniform", gone=_ONE_SHAPE
    )
    exits: str | None = setting(
        "The exits that may be used, by the layers before them: 0 is the one before the first "
        "layer, 1- stands for all others, 0- for all, 0,2-4 for some. Default: all; on a GPU, "
        "of a promise, those that pay by its clock.",
        None,
    )
    rows: Count = setting("Rows to calibrate on, drawn from the corpus.", 20000)
    name: str | None = setting(
        "Name of the point; if another one has it, a number is added. Default: what is asked for.",
        None,
    )
    default: bool = setting(
        "Make it the checkpoint's default point, for new outputs. Outputs that were labelled at "
        "another one go on with that.",
        True,
    )
    seed: Seed = setting("Seed of drawing and dividing the rows.", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = (self.max_disagreement, self.max_accuracy_loss, self.speedup)
        if sum(value is not None for value in asked) != 1:
            raise InputError(
                "pass one of --max-disagreement, --max-accuracy-loss and --speedup; they say what "
                "the point is for"
            )
        if self.speedup is not None and self.against != "own":
            raise InputError("--against goes with a promise, --speedup makes none")
        if self.speedup is not None and self.criterion == "auto":
            raise InputError("--speedup wants a --criterion")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(OneModel, LabelledTexts):
    """`fastbert evaluate`."""

    data: tuple[str, ...] = setting("Texts, labelled unless --no-labels.")
    speeds: tuple[Share, ...] = setting(
        "Thresholds on the normalised entropy, 0 (full depth) to 1; may be repeated.",
        (0.1, 0.3, 0.5, 0.8),
    )
    exits: str = setting(
        "The exits that --speeds may use, by the layers before them: 0- for all, 0,2-4 for some.",
        PAPER_EXITS,
    )
    labels: bool = setting("Compare with labels; without, only with full depth.", True)
    timing: bool = setting("Also run each speed and full depth against the clock.", True)
    json: bool = setting("Print only the JSON summary, no table.", False)


@dataclass(frozen=True, kw_only=True)
class LabelAnySettings(Labelling):
    """`fastbert label`: the labelling job by checkpoints, and by classifiers that get exits."""

    model: tuple[str, ...] = setting(
        "A FastBERT checkpoint or a Hugging Face classifier: a folder, a URL, or an id on the hub. "
        "Repeated, each has an output of its own, OUTPUT/NAME, except classifiers with one and the "
        "same backbone, which answer together."
    )
    max_disagreement: PartOf = setting(
        "Of a --model without exits, for which the output makes some: largest share of labels that "
        "may differ from the model's.",
        0.01,
    )
    tolerance: tuple[str, ...] = setting(
        "Of such a model's score: how far it may be off and still count as the same. Of one of "
        "several: NAME=0.2.",
        (),
    )
    cutoff: tuple[str, ...] = setting(
        "Of such a model's score that rows are filtered by: scores on one side of all cut-offs "
        "count as the same; may be repeated. Of one of several: NAME=3.",
        (),
    )
    make_exits: Literal["auto", "always", "never"] = setting(
        "Whether the output makes exits for such a model. auto: where the input is large enough "
        "for that to pay. never: the whole model answers each row.",
        "auto",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.model)) < len(self.model):
            raise InputError(f"--model names one model twice: {', '.join(self.model)}")
