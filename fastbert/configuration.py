"""Configuration of a FastBERT checkpoint: the backbone, its exits and its operating points."""

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

#: What a backbone's configuration says of a head that it had, and of the place it came from.
_FOREIGN = (
    "id2label",
    "label2id",
    "architectures",
    "problem_type",
    "_name_or_path",
    "dtype",
    "chunk_size_feed_forward",  # which changes no answer, and refuses lengths
)


#: Settings of a bag, and the least of each.
_BAG_SIZES = {"bag_size": 1, "bag_hidden": 1, "bag_tokens": 0, "bag_pairs": 0}


@strict
class FastBertConfig(PreTrainedConfig):
    """Everything `config.json` of a checkpoint says.

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
    #: Where rows may leave, in order, as `{"depth": 1, "head": "branch"}`; None: after every layer,
    #: with the adopted head at the last one if there is a `head_layout`.
    exits: list[dict[str, Any]] | None = None
    #: Of the bag, if `exits` has one: numbers of each token or pair, width of its hidden layer.
    bag_size: int = 64
    bag_hidden: int = 64
    #: Of the bag: tokens and pairs of tokens that have numbers.
    bag_tokens: int = 0
    bag_pairs: int = 0
    #: Of an adopted classifier's own head: its activation ("tanh", "gelu", "relu") where that is
    #: all there is to say, as of BERT and its kin, else its `HeadLayout`. Neither: the last exit
    #: has a branch like every other, as in the paper.
    teacher_activation: str | None = None
    adopted_head: dict[str, Any] | None = None
    #: Longest input in tokens, special tokens included; longer texts are truncated.
    max_length: int = 128
    #: name -> {"thresholds": one per exit but the last, "exit_depths": of all, ...}
    operating_points: dict[str, Any] | None = None
    #: The operating point used where none is asked for.
    default_operating_point: str | None = None

    @classmethod
    def of(
        cls, backbone: PreTrainedConfig, labels: Sequence[str], **settings: Any
    ) -> "FastBertConfig":
        """For a backbone, classes of these names, of which no two are the same, and any of the
        fields above."""
        check_distinct(labels)
        own = {key: value for key, value in backbone.to_dict().items() if key not in _FOREIGN}
        names = dict(enumerate(labels))
        numbers = {label: k for k, label in names.items()}
        return cls(backbone=own, id2label=names, label2id=numbers, **settings)

    def backbone_config(self) -> PreTrainedConfig:
        """The backbone's own configuration object; InputError where it is none."""
        settings = dict(self.backbone or {})
        check_family(model_type := settings.pop("model_type", None))
        advice = "expected the config.json of an encoder; save the checkpoint again"
        with explained("the checkpoint's backbone cannot be read", advice, Exception):
            config: PreTrainedConfig = AutoConfig.for_model(model_type, **settings)
        return config

    def check(self) -> None:
        """Raises InputError for settings that no checkpoint can have."""
        longest = encoder_for(self.backbone_config()).longest
        heads, width = self.branch_heads, self.branch_size
        own, layout = self.adopted_head, self.head_layout or HeadLayout()
        activation, norm = layout.activation, layout.norm
        check_settings("checkpoint", [
            ("max_length", self.max_length, 3 <= self.max_length <= longest, f"3 to {longest}"),
            ("branch_heads", heads, 1 <= heads <= width and width % heads == 0,
             f"a divisor of branch_size, {width}"),
            *(
                (name, getattr(self, name), getattr(self, name) >= least, f"{least} or more")
                for name, least in _BAG_SIZES.items()
            ),
            ("adopted_head", own, own is None or not self.teacher_activation,
             "none beside a teacher_activation, which is another"),
            ("teacher_activation", activation, activation in (None, *ACT2FN),
             "an activation that transformers knows, such as 'tanh'"),
            ("adopted_head's norm", norm, norm is None or 0 < norm < 1,
             "a number above 0 and below 1"),
        ])  # fmt: skip
        _ = self.exit_list, self.label_names  # which raise, too

    @property
    def exit_list(self) -> tuple[Exit, ...]:
        """Where rows may leave, by index; InputError where `exits` makes no sense."""
        layers: int = self.backbone_config().num_hidden_layers
        return exits_of(self.exits, layers, self.head_layout is not None)

    @property
    def head_layout(self) -> HeadLayout | None:
        """Of an adopted classifier's own head, if there is one; InputError where it is none."""
        if self.adopted_head is None:
            return HeadLayout(self.teacher_activation) if self.teacher_activation else None
        what = "the checkpoint's adopted_head cannot be read"
        advice = "expected one like {'activation': 'gelu', 'pooling': 'mean', 'norm': 1e-05}"
        with explained(what, advice, msgspec.ValidationError):
            return msgspec.convert(self.adopted_head, HeadLayout)

    def new_bag(self) -> Bag:
        """A bag of these sizes, which has learnt nothing."""
        vocabulary: int = self.backbone_config().vocab_size
        sizes = (self.bag_tokens, self.bag_pairs, self.bag_size, self.bag_hidden)
        return Bag(vocabulary, *sizes, len(self.label_names))

    @property
    def label_names(self) -> list[str]:
        """Class names by index, length N."""
        return label_names(self)


def load_config(folder: Path) -> FastBertConfig:
    """The configuration of the checkpoint in `folder`; InputError if it is not a FastBERT's, or has
    settings that none can have."""
    read_settings(folder)
    with readable(folder / "config.json", Exception):
        config: FastBertConfig = FastBertConfig.from_pretrained(folder)
        config.check()
    return config


def check_distinct(labels: Sequence[str]) -> None:
    """Raises InputError if two classes have one name: which is meant, nobody could tell."""
    if double := [name for k, name in enumerate(labels) if name in labels[:k]]:
        raise InputError(f"two classes are called '{double[0]}'; give each a name of its own")


def label_names(config: PreTrainedConfig) -> list[str]:
    """Class names by index, length N, of any classifier's configuration; numbers become strings.

    Raises InputError for fewer than two classes, gaps, and what is no name.
    """
    names: dict[Any, Any] = config.id2label or {}
    if len(names) < 2:
        raise InputError(
            f"id2label names {len(names)} classes, as of a regression; expected two or more: pass "
            "a model that tells classes apart"
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


AutoConfig.register("fastbert", FastBertConfig)
