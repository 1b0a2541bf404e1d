"""Configuration of a FastBERT checkpoint: the backbone, its exits and its operating points."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from fastbert.exits.exit import Exit, read_exits

#: What a backbone's configuration says of a head that it had, and of the place it came from.
_FOREIGN = ("id2label", "label2id", "architectures", "problem_type", "_name_or_path", "dtype")


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
    #: with the adopted head at the last one if there is a `teacher_activation`.
    exits: list[dict[str, Any]] | None = None
    #: Activation of an adopted classifier's own head ("tanh", "gelu", "relu"); None: the last
    #: exit has a branch like every other, as in the paper.
    teacher_activation: str | None = None
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
        """For a backbone, classes of these names and any of the fields above."""
        own = {key: value for key, value in backbone.to_dict().items() if key not in _FOREIGN}
        names = dict(enumerate(labels))
        numbers = {label: k for k, label in names.items()}
        return cls(backbone=own, id2label=names, label2id=numbers, **settings)

    def backbone_config(self) -> PreTrainedConfig:
        """The backbone's own configuration object."""
        settings = dict(self.backbone or {})
        config: PreTrainedConfig = AutoConfig.for_model(settings.pop("model_type"), **settings)
        return config

    @property
    def exit_list(self) -> tuple[Exit, ...]:
        """Where rows may leave, by index; InputError where `exits` makes no sense."""
        layers: int = self.backbone_config().num_hidden_layers
        if self.exits is not None:
            return read_exits(self.exits, layers)
        last = Exit(layers, "adopted" if self.teacher_activation else "branch")
        return (*(Exit(depth) for depth in range(1, layers)), last)

    @property
    def label_names(self) -> list[str]:
        """Class names by index, length N."""
        return label_names(self)


def label_names(config: PreTrainedConfig) -> list[str]:
    """Class names by index, length N, of any classifier's configuration."""
    names: dict[Any, str] = config.id2label or {}
    return [names[i] for i in range(len(names))]


AutoConfig.register("fastbert", FastBertConfig)
