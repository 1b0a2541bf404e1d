"""Configuration of a FastBERT checkpoint: the backbone, its exits and its operating points."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from fastbert.checkpoint import read_settings, readable
from fastbert.encoders import check_family, encoder_for
from fastbert.errors import InputError, check_settings, explained
from fastbert.exits.bag import Bag
from fastbert.exits.exit import Exit, exits_of
from fastbert.exits.layout import HeadLayout
from fastbert.exits.question import KINDS, PROBLEM_TYPES, Kind, Question, questions_of
from fastbert.exits.windows import Windows, windows_of
from fastbert.tasks.questions import Questions

#: Settings of a backbone's configuration about its former head and origin.
_FOREIGN = (
    "id2label",
    "label2id",
    "architectures",
    "problem_type",
    "_name_or_path",
    "dtype",
    "chunk_size_feed_forward",  # changes no answer, but refuses lengths
)


#: Settings of a bag, and their minimums.
_BAG_SIZES = {"bag_size": 1, "bag_hidden": 1, "bag_tokens": 0, "bag_pairs": 0}


@strict
class FastBertConfig(PreTrainedConfig):
    """The content of a checkpoint's `config.json`.

    `backbone` stays a plain dict so that one config class serves every backbone family; use
    `backbone_config()` for the object.
    """

    model_type = "fastbert"

    #: The Hugging Face configuration of the backbone, `model_type` included.
    backbone: dict[str, Any] | None = None
    #: Width D of the branch classifiers (the paper: 128).
    branch_size: int = 128
    #: Attention heads of a branch; must divide `branch_size` (the official code: 2).
    branch_heads: int = 2
    #: The questions, as `{"kind": "score", "centre": 2.5}`; None: one label, or by `problem_type`.
    questions: list[dict[str, Any]] | None = None
    #: Where rows may leave, in order, as `{"depth": 1, "head": "branch"}`; None: after every layer,
    #: with the adopted head at the last one if there are `head_layouts`.
    exits: list[dict[str, Any]] | None = None
    #: Of the bag, if `exits` has one: numbers per token or pair, width of its hidden layer.
    bag_size: int = 64
    bag_hidden: int = 64
    #: Of the bag: tokens and pairs of tokens that have numbers.
    bag_tokens: int = 0
    bag_pairs: int = 0
    #: Of an adopted classifier's own head: its activation ("tanh", "gelu", "relu") if that is
    #: enough, as for BERT and similar families, or a `HeadLayout` for each question. Neither: the
    #: last exit has a branch like every other, as in the paper.
    teacher_activation: str | None = None
    adopted_heads: list[dict[str, Any]] | None = None
    #: Longest input in tokens, special tokens included; longer texts are truncated.
    max_length: int = 128
    #: How longer texts are read, as `{"stride": 32}`; None: they are truncated.
    windows: dict[str, Any] | None = None
    #: name -> {"thresholds": one per exit except the last, "exit_depths": of all, ...}
    operating_points: dict[str, Any] | None = None
    #: The operating point used by default.
    default_operating_point: str | None = None

    @classmethod
    def of(
        cls,
        backbone: PreTrainedConfig,
        labels: Sequence[str],
        questions: Sequence[Question] = (),
        **settings: Any,
    ) -> "FastBertConfig":
        """For a backbone, questions about classes with these names (by default a single label), and
        any of the fields above. Raises InputError if two classes of a question have one name."""
        start = 0
        for size in [each.classes or len(labels) for each in questions] or [len(labels)]:
            check_distinct(labels[start : start + size])
            start += size
        own = {key: value for key, value in backbone.to_dict().items() if key not in _FOREIGN}
        names = dict(enumerate(labels))
        numbers = {label: k for k, label in names.items()}
        if questions and tuple(questions) != (Question(),):
            settings["questions"] = [msgspec.to_builtins(each) for each in questions]
        if len(questions) == 1:
            settings["problem_type"] = PROBLEM_TYPES[questions[0].kind]
        return cls(backbone=own, id2label=names, label2id=numbers, **settings)

    def backbone_config(self) -> PreTrainedConfig:
        """The backbone's own configuration object; raises InputError if invalid."""
        settings = dict(self.backbone or {})
        check_family(model_type := settings.pop("model_type", None))
        advice = "expected the config.json of an encoder; save the checkpoint again"
        with explained("the checkpoint's backbone cannot be read", advice, Exception):
            config: PreTrainedConfig = AutoConfig.for_model(model_type, **settings)
        return config

    def check(self) -> None:
        """Raises InputError for invalid settings."""
        longest = encoder_for(self.backbone_config()).longest
        heads, width = self.branch_heads, self.branch_size
        own, layouts = self.adopted_heads, self.head_layouts
        check_settings("checkpoint", [
            ("max_length", self.max_length, 3 <= self.max_length <= longest, f"3 to {longest}"),
            ("branch_heads", heads, 1 <= heads <= width and width % heads == 0,
             f"a divisor of branch_size, {width}"),
            *(
                (name, getattr(self, name), getattr(self, name) >= least, f"{least} or more")
                for name, least in _BAG_SIZES.items()
            ),
            ("adopted_heads", own, own is None or not self.teacher_activation,
             "none beside a teacher_activation"),
            ("adopted_heads", own, len(layouts) in (0, len(self.question_list)),
             f"one for each of {len(self.question_list)} questions"),
            *(
                ("teacher_activation", each.activation, each.activation in (None, *ACT2FN),
                 "an activation that transformers knows, such as 'tanh'")
                for each in layouts
            ),
            *(
                ("adopted_heads' norm", each.norm, each.norm is None or 0 < each.norm < 1,
                 "a number above 0 and below 1")
                for each in layouts
            ),
        ])  # fmt: skip
        questions, names = self.question_list, self.label_names
        if (classes := sum(each.classes or len(names) for each in questions)) != len(names):
            raise InputError(
                f"the checkpoint's questions are about {classes} classes, its id2label names "
                f"{len(names)}; save the checkpoint again"
            )
        for each in questions:
            size, cutoffs = each.classes or len(names), each.cutoffs
            check_settings("checkpoint", [
                ("scale", each.scale, 0 < each.scale < math.inf, "more than 0"),
                ("centre", each.centre, math.isfinite(each.centre), "a number"),
                ("cutoffs", cutoffs, cutoffs is None or (
                    len(cutoffs) == size and all(0 < number < 1 for number in cutoffs)),
                 f"{size} numbers between 0 and 1"),
            ])  # fmt: skip
        _ = self.exit_list, self.windowing  # also raise

    @property
    def exit_list(self) -> tuple[Exit, ...]:
        """Where rows may leave, by index; raises InputError if `exits` is invalid."""
        layers: int = self.backbone_config().num_hidden_layers
        return exits_of(self.exits, layers, bool(self.head_layouts))

    @property
    def head_layouts(self) -> list[HeadLayout]:
        """Layouts of adopted classifiers' own heads, if any, by question; raises InputError if
        invalid."""
        if self.adopted_heads is None:
            return [HeadLayout(self.teacher_activation)] if self.teacher_activation else []
        what = "the checkpoint's adopted_heads cannot be read"
        advice = "expected objects like {'activation': 'gelu', 'pooling': 'mean', 'norm': 1e-05}"
        with explained(what, advice, msgspec.ValidationError):
            return msgspec.convert(self.adopted_heads, list[HeadLayout])

    def new_bag(self) -> Bag:
        """A new, untrained bag of these sizes."""
        vocabulary: int = self.backbone_config().vocab_size
        sizes = (self.bag_tokens, self.bag_pairs, self.bag_size, self.bag_hidden)
        return Bag(vocabulary, *sizes, self.new_questions().numbers)

    @property
    def windowing(self) -> Windows | None:
        """How texts longer than `max_length` are read; raises InputError if invalid."""
        return windows_of(self.windows, self.max_length)

    @property
    def question_list(self) -> tuple[Question, ...]:
        """The questions; raises InputError if `questions` is invalid."""
        return questions_of(self.questions, self.problem_type)

    @property
    def question(self) -> Question:
        """The only question; raises ValueError if there are several."""
        (question,) = self.question_list
        return question

    def new_questions(self) -> Questions:
        """The questions with the meaning of logits."""
        return Questions(self.question_list, self.label_names)

    @property
    def label_names(self) -> list[str]:
        """Class names by index, or the name of a score; for several questions all, concatenated."""
        questions = self.question_list
        return label_names(self, questions[0].kind if len(questions) == 1 else "several-labels")


#: Fewest and most classes of a kind, and that in words.
_CLASSES: dict[Kind, tuple[int, float, str]] = {
    "single-label": (2, math.inf, "two or more"),
    "several-labels": (1, math.inf, "one or more"),
    "score": (1, 1, "one"),
}


def load_config(folder: Path) -> FastBertConfig:
    """The configuration of the checkpoint in `folder`; raises InputError if it is not of a
    FastBERT, or has invalid settings."""
    read_settings(folder)
    with readable(folder / "config.json", Exception):
        config: FastBertConfig = FastBertConfig.from_pretrained(folder)
        config.check()
    return config


def check_distinct(labels: Sequence[str]) -> None:
    """Raises InputError if two classes have one name, which would be ambiguous."""
    if double := [name for k, name in enumerate(labels) if name in labels[:k]]:
        raise InputError(f"two classes are named '{double[0]}'; give each a different name")


def label_names(config: PreTrainedConfig, kind: Kind) -> list[str]:
    """Class names by index, from the configuration of any classifier of a kind; numbers become
    strings.

    Raises InputError for a number of classes that the kind does not allow, gaps, and invalid names.
    """
    names: dict[Any, Any] = config.id2label or {}
    if not (least := _CLASSES[kind])[0] <= len(names) <= least[1]:
        raise InputError(
            f"id2label names {len(names)} classes, expected {least[2]} for the task {kind}; pass "
            "the --task that the model is for"
        )
    if missing := set(range(len(names))) - names.keys():
        raise InputError(
            f"id2label names {len(names)} classes by {', '.join(map(str, names))}, and none is "
            f"{min(missing)}; expected numbers from 0 to {len(names) - 1}"
        )
    for k, name in names.items():
        if not isinstance(name, str | int | float):
            raise InputError(f"id2label calls class {k} {name!r}, expected a string")
        with explained(f"id2label calls class {k} {name!r}", "expected UTF-8", UnicodeError):
            str(name).encode()
    return [str(names[k]) for k in range(len(names))]


def asked_of(config: PreTrainedConfig, kind: Kind | None = None) -> Question:
    """The question of an existing classifier: of a `kind`, or by its `problem_type`, or by the
    number of its classes, as in Hugging Face's pipeline.

    Raises InputError if that is ambiguous, and for several scores.
    """
    classes, problem = len(config.id2label or {}), config.problem_type
    if kind is None and problem is None and classes == 1:
        raise InputError(
            "the classifier has one class and no problem_type, so it may give a score or a yes or "
            "no; pass --task score or --task several-labels"
        )
    if kind is None and problem not in (None, *KINDS):
        raise InputError(
            f"the classifier's problem_type is '{problem}', expected one of {', '.join(KINDS)}; "
            f"pass --task {', --task '.join(KINDS.values())}"
        )
    kind = kind or KINDS.get(problem or "", "single-label")
    if kind == "score" and classes != 1:
        raise InputError(
            f"the classifier gives {classes} scores, expected one; pass one with one class, or "
            "another --task"
        )
    return Question(kind)


AutoConfig.register("fastbert", FastBertConfig)
