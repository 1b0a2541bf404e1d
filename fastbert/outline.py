"""What a run asks of a checkpoint before it knows whether there is anything to label.

To load a configuration is to import torch and transformers, which takes longer than a run that
finds nothing to do.
"""

from pathlib import Path
from typing import Any

import msgspec

from fastbert.checkpoint import read_settings
from fastbert.exits.exit import Exit, exits_of
from fastbert.exits.operating_point import Configuration
from fastbert.exits.question import Question, questions_of
from fastbert.exits.windows import Windows, windows_of


class Outline(msgspec.Struct, frozen=True):
    """Of `config.json` what says where rows may leave, and how long they may be.

    The rest of it is unchecked: whoever loads the model checks all.
    """

    layers: int
    max_length: int
    exits: list[dict[str, Any]] | None = None
    id2label: dict[str, str] | None = None
    questions: list[dict[str, Any]] | None = None
    problem_type: str | None = None
    teacher_activation: str | None = None
    adopted_heads: list[dict[str, Any]] | None = None
    windows: dict[str, Any] | None = None
    operating_points: dict[str, Any] | None = None
    default_operating_point: str | None = None
    #: Files that transformers reads in place of config.json.
    configuration_files: None = None

    @property
    def exit_list(self) -> tuple[Exit, ...]:
        """As a `FastBertConfig` has it."""
        adopted = bool(self.adopted_heads or self.teacher_activation)
        return exits_of(self.exits, self.layers, adopted)

    @property
    def label_names(self) -> list[str]:
        """As a `FastBertConfig` has it."""
        names = self.id2label or {"0": "LABEL_0", "1": "LABEL_1"}
        return [names[str(k)] for k in range(len(names))]

    @property
    def windowing(self) -> Windows | None:
        """As a `FastBertConfig` has it."""
        return windows_of(self.windows, self.max_length)

    @property
    def question_list(self) -> tuple[Question, ...]:
        """As a `FastBertConfig` has it."""
        return questions_of(self.questions, self.problem_type)


def read_outline(folder: Path) -> Configuration:
    """That of the checkpoint in `folder`. What is unusual, or wrong, is loaded as a whole: raises
    InputError as `load_config`."""
    settings = read_settings(folder)
    try:
        backbone = settings["backbone"]
        if backbone["model_type"] == "distilbert":
            backbone = {"num_hidden_layers": backbone.get("n_layers")} | backbone
        found = settings | {"layers": backbone["num_hidden_layers"]}
        return msgspec.convert(found, Outline)
    except (LookupError, TypeError, ValueError):
        from fastbert.configuration import load_config

        return load_config(folder)
